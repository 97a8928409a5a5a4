"""PyTorch wheel: which build belongs on this machine, and where pip gets it; asks nvidia-smi, imports no torch.

Standard library only, no import of this package: trainer/installer/bootstrap.py uses it before anything is installed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

TORCH = "2.13.0"
OFFICIAL_INDEX = "https://download.pytorch.org/whl"


class Card(NamedTuple):
    name: str
    driver: int  # major version
    capability: float  # 8.6 for an RTX 30 card, 0 where nvidia-smi does not tell


class Graphics(NamedTuple):
    card: Card | None
    trouble: str = ""  # why nvidia-smi, which is there, fails


class TorchBuild(NamedTuple):
    version: str
    kind: str  # cpu, cuda, mps; rocm or xpu where a person put that there


class Source(NamedTuple):
    """One place to get torch from. Where `page` is set, a wheel for this Python and system must be listed there."""

    title: str
    requirement: str
    options: tuple[str, ...] = ()
    page: str = ""


def card_signs() -> list:
    """What changes when a card or its driver comes or goes. Cheap to look at; nvidia-smi itself can take seconds."""
    executable = shutil.which("nvidia-smi")
    signs: list = [executable, os.stat(executable).st_mtime_ns if executable else 0]
    with contextlib.suppress(OSError):
        signs.append(Path("/proc/driver/nvidia/version").read_text())
        signs.append(sorted(os.listdir("/proc/driver/nvidia/gpus")))
    return signs


def find_card() -> Graphics:
    """The NVIDIA card with the highest compute capability."""
    import subprocess

    executable = shutil.which("nvidia-smi")
    if not executable:
        return Graphics(None)
    query = [executable, "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, errors="replace", timeout=20)
    except subprocess.TimeoutExpired:
        return Graphics(None, "no answer within 20 seconds")
    except OSError as error:
        return Graphics(None, str(error))
    cards = []
    for line in answer.stdout.splitlines():
        if fields := re.fullmatch(r"(.+?), *(\d+)[\d.]*, *(.+)", line.strip()):
            capability = re.fullmatch(r"\d+\.\d+", fields[3])
            cards.append(Card(fields[1], int(fields[2]), float(capability[0]) if capability else 0.0))
    if answer.returncode == 0 and cards:
        return Graphics(max(cards, key=lambda card: card.capability))
    reason = (answer.stdout.strip() or answer.stderr.strip() or f"exit code {answer.returncode}").splitlines()[0]
    return Graphics(None, "" if "no devices were found" in reason.lower() else reason)


def wanted_kind(graphics: Graphics) -> str:
    if sys.platform == "darwin":
        return "mps"
    return "cuda" if graphics.card else "cpu"


def installed_torch(site_packages: Path) -> TorchBuild | None:
    """Read from its files: importing it takes seconds, and a broken one cannot be imported."""
    for record in site_packages.glob("torch-*.dist-info/RECORD"):  # pip writes RECORD last
        version = record.parent.name.removeprefix("torch-").removesuffix(".dist-info")
        try:
            about = (site_packages / "torch" / "version.py").read_text(encoding="utf-8")
        except OSError:
            return None
        for kind, word in (("cuda", "cuda"), ("rocm", "hip"), ("xpu", "xpu")):
            if re.search(rf"^{word}\b[^=\n]*= *['\"]", about, re.MULTILINE):
                return TorchBuild(version, kind)
        return TorchBuild(version, "mps" if sys.platform == "darwin" else "cpu")
    return None


def keeps(torch: TorchBuild | None, graphics: Graphics, limits: str) -> bool:
    """Whether the installed torch stays. A failing driver is no reason to swap gigabytes: it may be one reboot away."""
    if torch is None or not within(torch.version, limits):
        return False
    return torch.kind in ("rocm", "xpu", wanted_kind(graphics)) or bool(graphics.trouble)


def within(version: str, limits: str) -> bool:
    """Whether 2.13.0+cpu is inside >=2.6,<3. Numbers only; bootstrap has no `packaging` yet."""
    ours = _numbers(version)
    tests = {">=": ours.__ge__, "<": ours.__lt__, "<=": ours.__le__, ">": ours.__gt__, "==": ours.__eq__}
    return all(tests[sign](_numbers(limit)) for sign, limit in re.findall(r"(>=|<=|==|<|>)([^,]+)", limits))


def cuda_build(card: Card) -> str:
    """cu130 starts at Turing (7.5) and needs driver 580; cu126 reaches back to Maxwell, and knows no Blackwell (10).

    From the table in PyTorch's RELEASE.md for 2.12 to 2.14.
    """
    before_turing = 0 < card.capability < 7.5
    return "cu126" if before_turing or (card.driver < 580 and card.capability < 10) else "cu130"


def torch_sources(graphics: Graphics) -> list[Source]:
    """Best first. PyPI has CUDA 13.0 for Linux, CPU for Windows, MPS for macOS; the rest is on PyTorch's own index."""
    build = cuda_build(graphics.card) if graphics.card else "cpu"
    ordinary = Source(f"PyTorch {TORCH} from pip's own index", f"torch=={TORCH}")
    official = Source(
        f"PyTorch {TORCH} for {'the CPU' if build == 'cpu' else build} from {OFFICIAL_INDEX}",
        f"torch=={TORCH}+{build}",
        ("--extra-index-url", f"{OFFICIAL_INDEX}/{build}"),
        f"{OFFICIAL_INDEX}/{build}/torch/",
    )
    # Where a find-links folder holds a +cpu wheel, pip takes it for newer than the index's plain one; === does not.
    plain = Source(f"PyTorch {TORCH}, the plain one, from pip's own index", f"torch==={TORCH}")
    if sys.platform == "darwin" or (build == "cpu" and os.name == "nt"):
        return [ordinary]
    if build == "cpu" or os.name == "nt":
        return [official, ordinary]
    return [ordinary, official, plain] if build == "cu130" else [official, ordinary, plain]


def offers(source: Source, python: str) -> bool:
    """Whether the source's page answers soon and lists a wheel for this Python ("3.11") and this system."""
    if not source.page:
        return True
    import urllib.parse
    import urllib.request

    try:
        with urllib.request.urlopen(source.page, timeout=5) as answer:
            names = urllib.parse.unquote(answer.read().decode("utf-8", "replace"))
    except (OSError, ValueError):
        return False
    return lists_wheel(names, source.requirement.removeprefix("torch=="), python)


def lists_wheel(names: str, version: str, python: str) -> bool:
    import platform

    tag = "cp" + python.replace(".", "")
    system = "win_amd64" if os.name == "nt" else rf"\w*linux\w*_{platform.machine()}"
    return bool(re.search(rf"torch-{re.escape(version)}-{tag}-{tag}-{system}\.whl", names))


def _numbers(text: str) -> list[int]:
    values = [int(part) for part in re.match(r"[\d.]*", text.strip())[0].split(".") if part]
    return values + [0] * (4 - len(values))

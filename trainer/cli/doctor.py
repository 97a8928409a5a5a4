"""Doctor: checks of this machine, one after the other, each with what is wrong and how to mend it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from ..installer.torch_wheel import OFFICIAL_INDEX, find_card

GIB = 2**30
SDXL_FILE = 6.94e9
"""Bytes of sd_xl_base_1.0.safetensors, the largest file that a run reads."""
REQUIREMENTS = Path(__file__).parents[2] / "requirements.txt"
MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "missing": "[red]missing[/]"}


@dataclass(frozen=True)
class Finding:
    name: str
    status: Literal["ok", "warning", "missing"]
    """warning: works, but less well or not for everything; missing: training cannot work without it."""
    detail: str
    mend: str = ""


def examine(workspace: Path | None) -> Iterator[Finding]:
    """Every check once, each when its finding is asked for: the first needs nothing, later ones start PyTorch.

    Looks only: loads no model, reaches no network, writes nothing.

    workspace: where runs will be kept, need not exist yet; None: the current folder.
    """
    place = (workspace or Path.cwd()).absolute()
    checks: dict[str, Callable[[], Iterable[Finding]]] = {
        "Python": python,
        "PyTorch": pytorch,
        "device": device,
        "8-bit optimizer": optimizer,
        "libraries": partial(libraries, REQUIREMENTS),
        "torchvision": torchvision,
        "tokenizer": tokenizer,
        "memory": memory,
        "disk": partial(disk, place),
    }
    for name, check in checks.items():
        yield from _survives(name, check)


def print_finding(finding: Finding) -> None:
    """One row of a table whose columns are as wide for every finding, so that each can be printed as it comes."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for width in (len("warning"), len("8-bit optimizer")):
        table.add_column(min_width=width)
    table.add_column()
    mend = f"\n-> {escape(finding.mend)}" if finding.mend else ""
    table.add_row(MARKS[finding.status], finding.name, escape(finding.detail) + mend)
    Console().print(table)
    sys.stdout.flush()


def python() -> Iterable[Finding]:
    version = sys.version.split()[0]
    if (3, 10) <= sys.version_info[:2] < (3, 14):
        yield Finding("Python", "ok", f"{version} ({sys.executable})")
    else:
        yield Finding("Python", "missing", f"{version} is not supported", "Use Python 3.10, 3.11, 3.12 or 3.13.")


def pytorch() -> Iterable[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library of the system that it needs
        mend = "Install it anew. On Windows it also needs the Microsoft Visual C++ redistributable (x64)."
        yield Finding("PyTorch", "missing", f"does not start: {error}", mend)
        return
    built = torch.version
    kinds = {"CUDA": built.cuda, "ROCm": built.hip, "XPU": getattr(built, "xpu", None)}
    build = next((f"{kind} {version}" for kind, version in kinds.items() if version), "CPU")
    if build == "CPU" and torch.backends.mps.is_built():
        build = "MPS"
    yield Finding("PyTorch", "ok", f"{torch.__version__}, built for {build}")


def device() -> Iterable[Finding]:
    import torch

    from ..device import capabilities, cards, pick_device, total_memory

    chosen = pick_device("auto")
    if chosen.type == "cpu":
        yield _no_card(torch.version.cuda)
        return
    for place in map(torch.device, cards() or [chosen.type]):
        able, memory = capabilities(place), total_memory(place) or 0
        detail = f"{place} is {able.name}, {memory / GIB:.1f} GiB: {able.precision}, {able.attention} attention"
        yield Finding("device", "ok", "; ".join([detail, *able.notes]))


def optimizer() -> Iterable[Finding]:
    import torch

    from ..config.run_config import OptimizerConfig
    from ..device import pick_device
    from ..training.optimizer import build_optimizer

    place = pick_device("auto")
    weight = torch.nn.Parameter(torch.zeros(4096, device=place))
    optimizer, notes = build_optimizer(OptimizerConfig(optimizer="adamw8bit"), [weight])
    optimizer.zero_grad()
    optimizer.grad.fill_(1)
    optimizer.step(lr=1e-3, max_norm=1.0)
    if not notes and weight.detach().abs().min() > 0:
        yield Finding("8-bit optimizer", "ok", f"a step of {optimizer.kind} moved every weight on {place.type}")
        return
    mend = "" if place.type == "mps" else "python -m pip install --force-reinstall --no-deps bitsandbytes"
    yield Finding("8-bit optimizer", "warning", "; ".join(notes) or "its step left weights where they were", mend)


def libraries(requirements: Path) -> Iterable[Finding]:
    """The installed versions against the ranges in `requirements` (a requirements.txt)."""
    from importlib.metadata import PackageNotFoundError, version

    from packaging.requirements import Requirement

    within = []
    for line in requirements.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate():
            continue
        mend = f'python -m pip install "{requirement.name}{requirement.specifier}"'
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            yield Finding(requirement.name, "missing", "is not installed", mend)
            continue
        if requirement.specifier.contains(installed, prereleases=True):
            within.append(f"{requirement.name} {installed}")
        else:
            yield Finding(
                requirement.name, "warning", f"{installed} is outside {requirement.specifier}, which was tested", mend
            )
    if within:
        yield Finding("libraries", "ok", ", ".join(within))


def torchvision() -> Iterable[Finding]:
    """Not needed; but where one is installed diffusers and transformers import it, and fail with it."""
    import importlib.util
    from importlib.metadata import PackageNotFoundError, version

    if importlib.util.find_spec("torchvision") is None:
        yield Finding("torchvision", "ok", "is not installed, and not needed")
        return
    try:
        installed = version("torchvision")
    except PackageNotFoundError:
        installed = "of unknown version"
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # a mismatch shows as RuntimeError, AttributeError, OSError or ImportError
        reason = f"{installed} does not fit this PyTorch, diffusers fails with it: {error}"
        mend = "python -m pip uninstall torchvision, or install the one that belongs to this PyTorch"
        yield Finding("torchvision", "missing", reason, mend)
    else:
        yield Finding("torchvision", "ok", f"{installed} fits this PyTorch")


def tokenizer() -> Iterable[Finding]:
    from huggingface_hub import try_to_load_from_cache

    from ..models.tokenizer import CLIP_FILES, CLIP_REPO

    absent = [name for name in CLIP_FILES[:2] if not isinstance(try_to_load_from_cache(CLIP_REPO, name), str)]
    if not absent:
        yield Finding("tokenizer", "ok", f"{CLIP_REPO} is in the Hugging Face cache")
        return
    detail = f"{CLIP_REPO} is not in the Hugging Face cache; single-file checkpoints bring none and will fetch it"
    mend = f"Before working without a network: hf download {CLIP_REPO} {' '.join(CLIP_FILES)}"
    yield Finding("tokenizer", "warning", detail, mend)


def memory() -> Iterable[Finding]:
    import psutil

    main, swap = psutil.virtual_memory(), psutil.swap_memory()
    detail = f"{main.available / GIB:.1f} of {main.total / GIB:.1f} GiB free, page file {swap.total / GIB:.1f} GiB"
    if main.available + swap.free >= SDXL_FILE:
        yield Finding("memory", "ok", detail)
        return
    mend = "Close other programs, or enlarge the page file (Windows: let the system manage its size)."
    yield Finding("memory", "warning", f"{detail}; an SDXL checkpoint alone is {SDXL_FILE / GIB:.1f} GiB", mend)


def disk(place: Path) -> Iterable[Finding]:
    existing = next(folder for folder in (place, *place.parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    detail = f"{free / GIB:.1f} GiB free at {place}"
    if free >= SDXL_FILE:
        yield Finding("disk", "ok", detail)
    else:
        mend = "Make room, or put the workspace on another disk."
        yield Finding("disk", "warning", f"{detail}; less than one SDXL checkpoint", mend)


def _no_card(cuda: str | None) -> Finding:
    graphics = find_card()
    if graphics.trouble:
        detail = f"only the CPU: nvidia-smi fails ({graphics.trouble})"
        return Finding("device", "warning", detail, "Restart the computer; if it still fails, install the driver anew.")
    if graphics.card and cuda:
        detail = f"only the CPU: PyTorch does not see the {graphics.card.name} (driver {graphics.card.driver})"
        mend = "Unset CUDA_VISIBLE_DEVICES if it is set; update the driver (CUDA 13 builds need 580 or newer)."
        return Finding("device", "warning", detail, mend)
    if graphics.card:
        detail = f"only the CPU: this PyTorch is a CPU build, though there is a {graphics.card.name}"
        return Finding("device", "warning", detail, f"Install a CUDA build of PyTorch from {OFFICIAL_INDEX}")
    return Finding("device", "warning", "only the CPU: enough to judge and for `mapo demo`; training wants a card")


def _survives(name: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """A check that trips over a broken installation says so instead of hiding what the others found."""
    try:
        return list(check())
    except Exception as error:
        return [Finding(name, "missing", f"the check failed: {type(error).__name__}: {error}".splitlines()[0])]

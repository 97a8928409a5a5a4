"""Which bases and LoRAs are offered by name? Any other can still be typed: a path, or a model's id on the hub."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..server.preferences_file import Settings

Choice = tuple[str, str]
"""What is shown, and what it stands for."""

_MOST = 300
"""Of each kind: a longer list is no choice any more."""

_CHECKPOINTS = {"comfyui": ("models/checkpoints",), "webui": ("models/Stable-diffusion",)}
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


def _files(settings: Settings, places: dict[str, tuple[str, ...]]) -> Iterator[Choice]:
    for host, folders in places.items():
        root = getattr(settings, host)
        for folder in folders if root else ():
            for path in _below(Path(root, folder)):
                yield path.relative_to(Path(root, folder)).as_posix(), str(path)


def _below(folder: Path) -> list[Path]:
    """Its .safetensors, by name. Links are followed: people keep models on another drive."""
    found: list[Path] = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        # A link may lead in a circle; nobody keeps models that deep.
        folders[:] = sorted(folders) if len(Path(parent).relative_to(folder).parts) < 6 else []
        found += [Path(parent, name) for name in sorted(names, key=str.lower) if name.endswith(".safetensors")]
        if len(found) >= _MOST:
            break
    return found[:_MOST]

"""Which LoRA file does a graph mean? One of ComfyUI's list by its name, or a path where LoRAs are kept.

A graph may come from anybody: files elsewhere on the machine are not for it to read.
"""

from __future__ import annotations

from pathlib import Path

from . import host
from . import settings as workspace


def listed(name: str) -> Path:
    """The file that ComfyUI's list calls `name`. Raises UserError where it is gone."""
    from ...trainer.errors import UserError

    found = host.file_of("loras", name)
    if found is None:
        raise UserError(f"there is no LoRA {name!r} in ComfyUI's loras folders any more: choose another")
    return found


def at(path: str) -> Path:
    """The file at `path`. Raises UserError where it is neither among ComfyUI's LoRAs nor ours, or is gone."""
    from ...trainer.errors import UserError

    file = Path(path.strip()).resolve()
    allowed = [folder.resolve() for folder in (*host.folders_of("loras"), workspace.workspace())]
    if not any(file.is_relative_to(folder) for folder in allowed):
        raise UserError(f"{file} is neither in ComfyUI's loras folders nor in the workspace: copy it there")
    if not file.is_file():
        raise UserError(f"there is no LoRA at {file} any more: train it again, or choose another")
    return file

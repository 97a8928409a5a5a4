"""LoRA files: the one that a graph names, and the copy of a run's LoRA in ComfyUI's list.

A graph may come from anybody: files elsewhere on the machine are not for it to read.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from . import host, settings

if TYPE_CHECKING:
    from ...trainer.runs.run_folder import Run

_FOLDER = "mapo"
_copying = threading.Lock()


def file_named(name: str) -> Path:
    """The file that ComfyUI's list calls `name`. Raises UserError where it is gone."""
    from ...trainer.errors import UserError

    file = host.file_of("loras", name)
    if file is None:
        raise UserError(f"there is no LoRA {name!r} in ComfyUI's loras folders any more: choose another")
    return file


def file_at(path: str) -> Path:
    """The file at `path`. Raises UserError where it is neither among ComfyUI's LoRAs nor ours, or is gone."""
    from ...trainer.errors import UserError

    file = Path(path.strip()).resolve()
    allowed = [folder.resolve() for folder in (*host.folders_of("loras"), settings.workspace())]
    if not any(file.is_relative_to(folder) for folder in allowed):
        raise UserError(f"{file} is neither in ComfyUI's loras folders nor in the workspace: copy it there")
    if not file.is_file():
        raise UserError(f"there is no LoRA at {file} any more: train it again, or choose another")
    return file


def resolve(name_or_path: str) -> str | None:
    """The LoRA that a person typed: a name of ComfyUI's list, or a path; None where nothing was typed.

    Raises UserError where there is no such file.
    """
    from ...trainer.errors import UserError

    name = name_or_path.strip().strip("\"'")
    if not name:
        return None
    if name in host.files_of("loras"):
        return str(file_named(name))
    if not Path(name).is_absolute():
        raise UserError(f"continue_from: there is no LoRA {name!r}: name one of ComfyUI's list, or the path of a file")
    return str(file_at(name))


def install_folder() -> Path:
    """Where they are copied to: below the folder that ComfyUI's list is of. It may not be there yet."""
    return host.folders_of("loras")[0] / _FOLDER


def installed_name(run: Run) -> str | None:
    """The name of the LoRA of `run` in ComfyUI's list; None where it is not there. Recognised by name and size."""
    try:
        size = run.lora_file.stat().st_size
        there = (install_folder() / run.lora_file.name).stat().st_size
    except OSError:
        return None
    return os.path.join(_FOLDER, run.lora_file.name) if size == there else None


def install(run: Run) -> str:
    """Copy the LoRA of `run` there, whole or not at all, and tell the pages where it is new. Returns its name.

    Raises UserError where there is no LoRA yet, another file of that name is there, or the disk is full.
    """
    from ...trainer.atomic_files import explain_disk_full
    from ...trainer.services.lora_library import copy_to

    with _copying:  # the train node and the watcher see the same run end
        with explain_disk_full(install_folder()):
            install_folder().mkdir(parents=True, exist_ok=True)
        was_there = (install_folder() / run.lora_file.name).exists()
        name = os.path.join(_FOLDER, copy_to(run, install_folder()).name)
    if not was_there:
        host.tell_pages("mapo.lora", {"lora": name, "run": run.name})
    return name

"""How does the LoRA of a run get into ComfyUI's list of LoRAs, and what is it called there?"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from . import host

if TYPE_CHECKING:
    from ...trainer.runs.run_folder import Run

_FOLDER = "mapo"
_copying = threading.Lock()


def folder() -> Path:
    """Where they are copied to: below the folder that ComfyUI's list is of. It may not be there yet."""
    return host.folders_of("loras")[0] / _FOLDER


def listed(run: Run) -> str | None:
    """The name of the LoRA of `run` in ComfyUI's list; None where it is not there. Told by name and size."""
    try:
        size = run.lora_file.stat().st_size
        there = (folder() / run.lora_file.name).stat().st_size
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
        with explain_disk_full(folder()):
            folder().mkdir(parents=True, exist_ok=True)
        was_there = (folder() / run.lora_file.name).exists()
        name = os.path.join(_FOLDER, copy_to(run, folder()).name)
    if not was_there:
        host.tell_pages("mapo.lora", {"lora": name, "run": run.name})
    return name

"""Where does a finished LoRA go when it is copied to the hosts?"""

from __future__ import annotations

from pathlib import Path

from ...trainer.errors import UserError
from ...trainer.runs.run_folder import Run
from ...trainer.services.lora_library import copy_to
from ..server.preferences_file import Settings

_HOSTS = {"comfyui": ("ComfyUI", "models/loras"), "webui": ("A1111", "models/Lora"), "loras": ("your folder", "")}


def places(settings: Settings) -> dict[str, Path]:
    """The folders for LoRAs of the hosts that are named in the settings, by the host's name."""
    found: dict[str, Path] = {}
    for key, (words, inside) in _HOSTS.items():
        root = getattr(settings, key)
        if root and Path(root, inside) not in found.values():  # the folder for LoRAs may be the one of a host
            found[words] = Path(root, inside)
    return found


def copy_label(settings: Settings) -> str:
    return f"Copy to {' and '.join(places(settings)) or 'ComfyUI / A1111'}"


def copy_to_hosts(run: Run, settings: Settings) -> str:
    """Copy the LoRA of `run` to all of them. Returns a sentence. Raises UserError where one cannot take it."""
    folders = places(settings)
    if not folders:
        raise UserError("say in the settings (top right) in which folder ComfyUI, A1111 or your LoRAs are")
    copies = [copy_to(run, folder) for folder in folders.values()]
    return f"{run.lora_file.name} is in {' and '.join(str(copy.parent) for copy in copies)}"

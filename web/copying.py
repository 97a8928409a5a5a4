"""Where does a finished LoRA go when it is copied to the hosts?"""

from __future__ import annotations

from pathlib import Path

from ..trainer.errors import UserError
from ..trainer.library import copy_to
from ..trainer.runs import Run
from .settings import Settings

_HOSTS = {"comfyui": ("ComfyUI", "models/loras"), "webui": ("A1111", "models/Lora"), "loras": ("your folder", "")}


def places(settings: Settings) -> dict[str, Path]:
    """The folders for LoRAs of the hosts that are named in the settings, by the host's name."""
    given = {words: (getattr(settings, key), inside) for key, (words, inside) in _HOSTS.items()}
    found = {words: Path(root, inside) for words, (root, inside) in given.items() if root}
    # The folder for LoRAs may be the one of a host.
    return {words: folder for words, folder in found.items() if folder not in (found[w] for w in found if w < words)}


def copy_label(settings: Settings) -> str:
    return f"Copy to {' and '.join(places(settings)) or 'ComfyUI / A1111'}"


def copy_to_hosts(run: Run, settings: Settings) -> str:
    """Copy the LoRA of `run` to all of them. Returns a sentence. Raises UserError where one cannot take it."""
    folders = places(settings)
    if not folders:
        raise UserError("say in the settings (top right) in which folder ComfyUI, A1111 or your LoRAs are")
    copies = [copy_to(run, folder) for folder in folders.values()]
    return f"{run.lora_file.name} is in {' and '.join(str(copy.parent) for copy in copies)}"

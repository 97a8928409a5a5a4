"""Base models: the checkpoints and diffusers folders of ComfyUI that a LoRA can be trained on, and their paths."""

from __future__ import annotations

from pathlib import Path

from . import host

TINY = "tiny"
"""The engine's embedded base: taken where it is named, not offered, as no node of ComfyUI loads it."""


def names() -> list[str]:
    """Checkpoints, then folders in diffusers' layout, as ComfyUI's own loaders name them. Pickles are left out."""
    checkpoints = [name for name in host.files_of("checkpoints") if name.lower().endswith(".safetensors")]
    return [*checkpoints, *(name for name in host.diffusers_folders() if name not in checkpoints)]


def path_of(name: str) -> str:
    """What RunConfig.base is for the model of that name. Raises UserError where ComfyUI has none of it."""
    from ...trainer.errors import UserError

    if name == TINY:
        return TINY
    path = host.file_of("checkpoints", name) if name in host.files_of("checkpoints") else None
    path = path or host.diffusers_folders().get(name)
    if path is None:
        raise UserError(
            f"ComfyUI has no checkpoint {name!r}: choose one of the list, or put it into its models/checkpoints folder"
        )
    return str(path)


def tokenizers_of(base: str) -> str | None:
    """What RunConfig.tokenizers is for the base at `base`: a single file brings none, and ComfyUI has CLIP's."""
    folder = host.clip_tokenizer()
    return str(folder) if base != TINY and Path(base).is_file() and folder.is_dir() else None

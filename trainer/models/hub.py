"""Hugging Face hub: how a model's name there becomes a folder with what is needed of it, and no more."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from ..errors import UserError
from .tokenizer import CLIP_FILES

log = logging.getLogger(__name__)

_COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2")
_TOKENIZERS = ("tokenizer", "tokenizer_2")
_ALWAYS = ("model_index.json", "scheduler/scheduler_config.json")


def looks_like_hub_id(name: str) -> bool:
    """owner/model, with nothing that only a path has."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None and not name.endswith(
        (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
    )


def needed(files: Iterable[str]) -> list[str]:
    """Of a repository's files, those that a base is loaded from; of two precisions the fp16 one, half the download."""
    there = set(files)
    selected = [name for name in _ALWAYS if name in there]
    selected += [f"{t}/{name}" for t in _TOKENIZERS for name in CLIP_FILES if f"{t}/{name}" in there]
    for component in _COMPONENTS:
        if f"{component}/config.json" in there:
            weights = [
                name
                for name in there
                if name.startswith(f"{component}/")
                and name.endswith((".safetensors", ".safetensors.index.json", ".safetensors.index.fp16.json"))
                and ".non_ema" not in name
            ]
            half = [name for name in weights if ".fp16" in name]
            selected += [f"{component}/config.json", *sorted(half or weights)]
    return selected


def fetch(repo: str) -> Path:
    """The snapshot folder of `repo`: from the cache if it is whole there, else downloaded.

    Raises UserError if it is neither cached nor can be downloaded, or has no weights in safetensors format.
    """
    from huggingface_hub import HfApi, snapshot_download

    cached = _cached(repo)
    if cached is not None:
        return cached
    try:
        files = HfApi().list_repo_files(repo)
        patterns = needed(files)
        if any(name.endswith(".safetensors") for name in patterns):
            return Path(snapshot_download(repo, allow_patterns=patterns))
    except Exception as error:  # offline, gated, misspelt, full disk: the client has an exception for each
        log.debug("cannot fetch %s", repo, exc_info=True)
        raise UserError(_why(repo, error)) from error
    single = [name for name in files if name.endswith(".safetensors") and "/" not in name]
    advice = (
        f"Download {single[0]} from it and give the path of that file."
        if single
        else "Choose a model in diffusers format with .safetensors files."
    )
    raise UserError(f"{repo} on the Hugging Face hub is no diffusers model with safetensors weights. {advice}")


def _cached(repo: str) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo, local_files_only=True))
    except Exception:  # "not cached" has changed its exception between versions
        return None
    index = folder / "model_index.json"
    if not index.is_file():
        return None
    named = index.read_text(encoding="utf-8")
    for component in _COMPONENTS:
        if f'"{component}"' in named and not any((folder / component).glob("*.safetensors")):
            return None
    return folder


def _why(repo: str, error: Exception) -> str:
    kind = type(error).__name__
    if kind == "GatedRepoError":
        return (
            f"{repo} asks for its terms to be accepted: do so on its page at huggingface.co, then run `hf auth login`."
        )
    if kind == "RepositoryNotFoundError":
        return (
            f'There is no file or folder "{repo}", and no such public model on the Hugging Face hub. '
            "Check the spelling; for a private model run `hf auth login`."
        )
    reason = " ".join(str(error).split())[:160]
    return (
        f'"{repo}" is no file or folder here, is not in the Hugging Face cache, and could not be downloaded '
        f"({kind}: {reason}). Check the path or the connection, or give a .safetensors checkpoint."
    )

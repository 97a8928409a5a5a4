"""Tokenizers: where those of a single file come from (it holds none), and how prompts become token ids."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

CLIP_REPO = "openai/clip-vit-large-patch14"
"""Home of CLIP's vocabulary; every text encoder of SD 1.5 and SDXL uses this one."""
CLIP_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")

log = logging.getLogger(__name__)


def clip_tokenizer(folder: Path | None, pad: str | None = None) -> Any:
    """A CLIPTokenizer from `folder` (vocab.json and merges.txt; ComfyUI keeps one in comfy/sd1_tokenizer), else from
    the hub cache, else from the hub.

    pad: the padding token; SDXL's second encoder was trained with "!" (token 0), the others with the end token.
    Raises UserError, with the command that fetches it, if there is none.
    """
    from transformers import CLIPTokenizer

    place = folder if folder is not None else _from_hub()
    if not ((place / "vocab.json").is_file() and (place / "merges.txt").is_file()):
        raise UserError(
            f"{place} holds no CLIP tokenizer (vocab.json and merges.txt). Name a folder that does, such as "
            "ComfyUI's comfy/sd1_tokenizer, or leave it out to use the Hugging Face cache."
        )
    return CLIPTokenizer.from_pretrained(str(place), **({} if pad is None else {"pad_token": pad}))


def token_ids(tokenizer: Any, prompts: Sequence[str], max_length: int, *, warn_truncated: bool = True) -> Tensor:
    """(prompts, tokens) int64: start and end token added, padded to full length, cut where too long.

    max_length: the text encoder's number of positions. A tokenizer may know a smaller one, or a far larger one:
    ComfyUI's says 8192. warn_truncated: log the prompts that were cut; once is enough where two encoders read the same
    prompt.
    """
    length = min(tokenizer.model_max_length, max_length)
    ids = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    truncated = [p for p in prompts if warn_truncated and _longer(tokenizer, p, length)]
    for prompt in truncated:
        log.warning("Prompt cut after %d tokens, the encoder's limit: %.60s...", length - 2, prompt)
    return ids.input_ids


def _longer(tokenizer: Any, prompt: str, length: int) -> bool:
    # A token is at least one letter, so most prompts need not be counted. Counting stops one past the limit: without
    # truncation the tokenizer would warn, wrongly, of indexing errors to come.
    if len(prompt) <= length - 2:
        return False
    return len(tokenizer(prompt, truncation=True, max_length=length + 1).input_ids) > length


def _from_hub() -> Path:
    from huggingface_hub import snapshot_download

    for cached_only in (True, False):
        try:
            folder = Path(snapshot_download(CLIP_REPO, allow_patterns=list(CLIP_FILES), local_files_only=cached_only))
        except Exception:  # each version of the hub client has its own way to say "not there" and "no network"
            log.debug("no tokenizer (cached only: %s)", cached_only, exc_info=True)
            continue
        if all((folder / name).is_file() for name in CLIP_FILES[:2]):
            return folder
    raise UserError(
        "A single-file checkpoint holds no tokenizer, and none was found in the Hugging Face cache. Fetch it once with "
        f"`hf download {CLIP_REPO} {' '.join(CLIP_FILES)}`, or name a folder with vocab.json and merges.txt, such as "
        "ComfyUI's comfy/sd1_tokenizer."
    )

"""How do judged pairs become cached latents and text, with one model at a time on the card?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .families.base import Base, Framing
from .preferences.pairs import Pair


@dataclass(frozen=True)
class EncodedPair:
    """One pair, ready to be drawn into a batch: every Path is a cache entry for `load_latent` or `load_text`.

    bucket: (width, height) in pixels of both pictures; framing: the chosen picture's, for both (and for their mirror
    images: the crop is centred). The flipped paths are None unless `encode` was asked for them.
    """

    pair: Pair
    bucket: tuple[int, int]
    framing: Framing
    text: Path
    chosen: Path
    rejected: Path
    chosen_flipped: Path | None = None
    rejected_flipped: Path | None = None


@dataclass(frozen=True)
class EncodedPairs:
    """What `encode` leaves behind: no tensor, only where each one lies."""

    pairs: tuple[EncodedPair, ...]
    texts: Mapping[str, Path]
    """Prompt -> cache entry: every pair's prompt, the extra prompts, and always the empty prompt."""
    upscaled: tuple[str, ...] = ()
    """Labels of pictures smaller than their bucket: they train, but blurred."""
    reused: int = 0
    made: int = 0

    def text(self, prompt: str) -> Path:
        """The cache entry of a prompt that `encode` was given. Raises KeyError for any other."""
        return self.texts[prompt]


@dataclass(frozen=True)
class EncodeProgress:
    """phase: "check" (what is cached already), "text" or "latents"; done and total count entries of that phase.

    reused: entries of the whole encode that were found sound in the cache.
    """

    phase: str
    done: int
    total: int
    reused: int


def encode(
    base: Base,
    pairs: Sequence[Pair],
    prompts: Sequence[str],
    cache: Path,
    device: torch.device,
    *,
    resolution: int,
    flip: bool = False,
    workers: int = 2,
    progress: Callable[[EncodeProgress], None] = lambda _: None,
) -> EncodedPairs:
    """Encode what the cache lacks: prompts first, then pictures, and load no model that nothing needs.

    prompts: further prompts, for samples. resolution: side in px of the square whose area every bucket keeps within.
    flip: mirrored pictures too. workers: threads that decode pictures while the device encodes.
    Raises UserError naming the picture that cannot be read or encoded, and the folder if the disk is full.
    """
    raise NotImplementedError


def load_latent(path: Path) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a picture's latent, each (c, h, w) float32 on the CPU, times scaling_factor.

    A fresh latent is `mean + std * torch.randn_like(std)`, ready for the UNet. Raises UserError on a damaged entry.
    """
    raise NotImplementedError


def load_text(path: Path) -> dict[str, Tensor]:
    """A prompt's text tensors by name, no batch axis, on the CPU, in the dtype they were encoded in.

    Raises UserError on a damaged entry.
    """
    raise NotImplementedError

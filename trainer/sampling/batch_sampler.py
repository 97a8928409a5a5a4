"""How are many pictures painted, with and without LoRAs, while every model is loaded once?

As everywhere, text encoders, UNet and VAE are on the device one after the other. So pictures come in rounds: some are
painted, then the UNet makes room while they are decoded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from ..cancellation import Cancelled
from ..device import offloaded, pick_device, pick_precision, release_memory, torch_dtype
from ..lora import adapter
from ..lora.file import LoraFile
from ..models.base_model import BaseModel, TextTensors
from ..models.memory_saving.quantize import Quantize, for_painting
from .sampler import decode, lora_for, pictures_at_once, sample, set_lora

_PROMPTS_AT_ONCE = 256
"""SDXL's text for one prompt is 0.6 MB: not every prompt of a large dataset is kept in memory."""
_ROUND_SECONDS = 20.0
_ROUND_PICTURES = 32


@dataclass(frozen=True)
class Worn:
    """A LoRA file as it is painted with. strength: 1 is as trained."""

    file: Path
    strength: float = 1.0


@dataclass(frozen=True)
class Wish:
    """One picture that is wanted; lora: None paints the base alone."""

    prompt: str
    seed: int
    lora: Worn | None = None


@dataclass(frozen=True)
class Manner:
    """What is the same for all pictures of a painter. size: (width, height) in pixels; see generate.sample."""

    size: tuple[int, int]
    steps: int
    guidance: float
    negative: str = ""

    def with_size(self, size: tuple[int, int]) -> Manner:
        """The same for pictures of another size."""
        return replace(self, size=size)


class Painter:
    """Paints wishes with one base. Nothing is loaded before the first picture."""

    def __init__(
        self,
        base: BaseModel,
        manner: Manner,
        loras: Sequence[Path] = (),
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        quantize: Quantize | None = None,
    ):
        """loras: the files that wishes will name; quantize: how the UNet is stored, by default `for_painting`.

        Raises UserError where a LoRA does not fit the base.
        """
        self._base = base
        self._manner = manner
        self._device = device or pick_device()
        self._dtype = dtype or torch_dtype(pick_precision("auto", self._device))
        self._quantize = quantize or for_painting(self._device)
        self._loras = {file: lora_for(base, file) for file in loras}
        # On a CPU nothing has to make room, and the first pictures are worth seeing soon.
        self._round_seconds = 0.0 if self._device.type == "cpu" else _ROUND_SECONDS
        self._unet: nn.Module | None = None
        self._vae: nn.Module | None = None
        self._attached: LoraFile | None = None
        self._worn: Worn | None = None

    def paint(
        self, wishes: Sequence[Wish], check: Callable[[], None] = lambda: None
    ) -> Iterator[list[tuple[Wish, Image.Image]]]:
        """The pictures in the order of `wishes`, a round at a time: what was painted in 20 seconds, at least a batch.

        check is called after every step; a Cancelled from it comes out after the pictures that are complete.
        """
        rest = iter(wishes)
        while part := list(islice(rest, _PROMPTS_AT_ONCE)):
            yield from self._paint(part, self._texts(part), check)

    def _paint(
        self, wishes: Sequence[Wish], texts: dict[str, TextTensors], check: Callable[[], None]
    ) -> Iterator[list[tuple[Wish, Image.Image]]]:
        at_once = pictures_at_once(self._manner.size)
        began, waiting = time.monotonic(), list[tuple[Wish, Tensor]]()
        for start in range(0, len(wishes), at_once):
            try:
                waiting += self._sampled(wishes[start : start + at_once], texts, check)
            except Cancelled:
                if waiting:
                    yield self._decoded(waiting)
                raise
            if time.monotonic() - began >= self._round_seconds or len(waiting) >= _ROUND_PICTURES:
                yield self._decoded(waiting)
                began, waiting = time.monotonic(), []
        if waiting:
            yield self._decoded(waiting)

    def _sampled(
        self, wishes: Sequence[Wish], texts: dict[str, TextTensors], check: Callable[[], None]
    ) -> list[tuple[Wish, Tensor]]:
        unet = self._loaded_unet()
        painted: dict[int, Tensor] = {}
        # Those of one LoRA together: putting on another costs time, and a batch can wear only one.
        places = sorted(range(len(wishes)), key=lambda place: repr(wishes[place].lora))
        for worn, group in groupby(places, key=lambda place: wishes[place].lora):
            those = list(group)
            with self._wearing(unet, worn):
                latents = sample(
                    self._base,
                    unet,
                    [(texts[wishes[place].prompt], texts[self._manner.negative]) for place in those],
                    self._manner.size,
                    [wishes[place].seed for place in those],
                    steps=self._manner.steps,
                    guidance=self._manner.guidance,
                    progress=lambda *_: check(),
                )
            painted.update(zip(those, latents, strict=True))
        return [(wish, painted[place]) for place, wish in enumerate(wishes)]

    def _decoded(self, painted: Sequence[tuple[Wish, Tensor]]) -> list[tuple[Wish, Image.Image]]:
        with offloaded(self._loaded_unet(), self._device):
            if self._vae is None:
                self._vae = self._base.load_vae(self._device)
            self._vae.to(self._device)
            pictures = decode(self._vae, torch.stack([latents for _, latents in painted]))
            self._vae.to("cpu")
        return [(wish, picture) for (wish, _), picture in zip(painted, pictures, strict=True)]

    def _texts(self, wishes: Sequence[Wish]) -> dict[str, TextTensors]:
        prompts = list(dict.fromkeys([*(wish.prompt for wish in wishes), self._manner.negative]))
        with offloaded(self._unet, self._device) if self._unet is not None else nullcontext():
            encoder = self._base.load_text(self._device, self._dtype)
            texts = dict(zip(prompts, encoder(prompts), strict=True))
            del encoder
            release_memory(self._device)
        return texts

    def _loaded_unet(self) -> nn.Module:
        if self._unet is None:
            self._unet = self._base.load_unet(self._device, self._dtype, self._quantize)
        return self._unet

    def _wearing(self, unet: nn.Module, worn: Worn | None):
        if worn is None:
            return adapter.disabled(unet)
        if worn != self._worn:
            lora = self._loras[worn.file]
            if self._attached is None or self._attached.settings != lora.settings:
                adapter.detach(unet)
                adapter.attach(unet, lora.settings, 0, self._base.lora_targets)
            set_lora(unet, lora, worn.strength)
            self._attached, self._worn = lora, worn
        return nullcontext()

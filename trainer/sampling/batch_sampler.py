"""Batched sampling for a list of image requests, with and without LoRAs, while every model is loaded once.

As everywhere, text encoders, UNet and VAE are on the device one after the other. So images come in rounds: some are
sampled, then the UNet makes room while they are decoded.
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
from ..models.memory_saving.quantize import Quantize, quantize_mode_for_inference
from ..models.open import open_base
from .defaults import steps_and_cfg
from .sampler import decode, images_per_batch, lora_for, sample, set_lora
from .task_settings import GenerateSettings

_PROMPTS_PER_ROUND = 256
"""SDXL's text for one prompt is 0.6 MB: not every prompt of a large dataset is kept in memory."""
_ROUND_SECONDS = 20.0
_ROUND_IMAGES = 32


@dataclass(frozen=True)
class LoraUse:
    """A LoRA file and how strongly it is used. strength: 1 is as trained."""

    file: Path
    strength: float = 1.0


@dataclass(frozen=True)
class ImageRequest:
    """One image to generate; lora: None for the base alone."""

    prompt: str
    seed: int
    lora: LoraUse | None = None


@dataclass(frozen=True)
class SamplingSettings:
    """What all images of a BatchSampler share. size: (width, height) in pixels; the rest: see `sampler.sample`."""

    size: tuple[int, int]
    steps: int
    guidance: float
    negative: str = ""

    def with_size(self, size: tuple[int, int]) -> SamplingSettings:
        """The same for images of another size."""
        return replace(self, size=size)


def open_for_sampling(settings: GenerateSettings) -> tuple[BaseModel, SamplingSettings]:
    """The base of a task's settings, and how to sample with it. Raises UserError where there is no such base."""
    tokenizers = Path(settings.tokenizers) if settings.tokenizers else None
    base = open_base(settings.base, tokenizers=tokenizers, prediction=settings.prediction)
    size = (settings.width or base.resolution, settings.height or base.resolution)
    return base, SamplingSettings(size, *steps_and_cfg(base, settings.steps, settings.guidance), settings.negative)


class BatchSampler:
    """Generates what is requested with one base. Nothing is loaded before the first image."""

    def __init__(
        self,
        base: BaseModel,
        settings: SamplingSettings,
        loras: Sequence[Path] = (),
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        quantize: Quantize | None = None,
    ):
        """loras: the files that requests will name; quantize: how the UNet is stored, by default
        `quantize_mode_for_inference`.

        Raises UserError where a LoRA does not fit the base.
        """
        self._base = base
        self._settings = settings
        self._device = device or pick_device()
        self._dtype = dtype or torch_dtype(pick_precision("auto", self._device))
        self._quantize = quantize or quantize_mode_for_inference(self._device)
        self._loras = {file: lora_for(base, file) for file in loras}
        # On a CPU nothing has to make room, and the first images are worth seeing soon.
        self._round_seconds = 0.0 if self._device.type == "cpu" else _ROUND_SECONDS
        self._unet: nn.Module | None = None
        self._vae: nn.Module | None = None
        self._attached: LoraFile | None = None
        self._in_use: LoraUse | None = None

    def generate(
        self, requests: Sequence[ImageRequest], check: Callable[[], None] = lambda: None
    ) -> Iterator[list[tuple[ImageRequest, Image.Image]]]:
        """The images in the order of `requests`, a round at a time: what was sampled in 20 seconds, at least a batch.

        check is called after every step; a Cancelled from it comes out after the images that are complete.
        """
        rest = iter(requests)
        while part := list(islice(rest, _PROMPTS_PER_ROUND)):
            yield from self._rounds(part, self._texts(part), check)

    def _rounds(
        self, requests: Sequence[ImageRequest], texts: dict[str, TextTensors], check: Callable[[], None]
    ) -> Iterator[list[tuple[ImageRequest, Image.Image]]]:
        at_once = images_per_batch(self._settings.size)
        began, waiting = time.monotonic(), list[tuple[ImageRequest, Tensor]]()
        for start in range(0, len(requests), at_once):
            try:
                waiting += self._sampled(requests[start : start + at_once], texts, check)
            except Cancelled:
                if waiting:
                    yield self._decoded(waiting)
                raise
            if time.monotonic() - began >= self._round_seconds or len(waiting) >= _ROUND_IMAGES:
                yield self._decoded(waiting)
                began, waiting = time.monotonic(), []
        if waiting:
            yield self._decoded(waiting)

    def _sampled(
        self, requests: Sequence[ImageRequest], texts: dict[str, TextTensors], check: Callable[[], None]
    ) -> list[tuple[ImageRequest, Tensor]]:
        unet = self._loaded_unet()
        sampled: dict[int, Tensor] = {}
        # Those of one LoRA together: putting on another costs time, and a batch can wear only one.
        indices = sorted(range(len(requests)), key=lambda index: repr(requests[index].lora))
        for use, group in groupby(indices, key=lambda index: requests[index].lora):
            those = list(group)
            with self._using(unet, use):
                latents = sample(
                    self._base,
                    unet,
                    [(texts[requests[index].prompt], texts[self._settings.negative]) for index in those],
                    self._settings.size,
                    [requests[index].seed for index in those],
                    steps=self._settings.steps,
                    guidance=self._settings.guidance,
                    progress=lambda *_: check(),
                )
            sampled.update(zip(those, latents, strict=True))
        return [(request, sampled[index]) for index, request in enumerate(requests)]

    def _decoded(self, sampled: Sequence[tuple[ImageRequest, Tensor]]) -> list[tuple[ImageRequest, Image.Image]]:
        with offloaded(self._loaded_unet(), self._device):
            if self._vae is None:
                self._vae = self._base.load_vae(self._device)
            self._vae.to(self._device)
            images = decode(self._vae, torch.stack([latents for _, latents in sampled]))
            self._vae.to("cpu")
        return [(request, image) for (request, _), image in zip(sampled, images, strict=True)]

    def _texts(self, requests: Sequence[ImageRequest]) -> dict[str, TextTensors]:
        prompts = list(dict.fromkeys([*(request.prompt for request in requests), self._settings.negative]))
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

    def _using(self, unet: nn.Module, use: LoraUse | None):
        if use is None:
            return adapter.disabled(unet)
        if use != self._in_use:
            lora = self._loras[use.file]
            if self._attached is None or self._attached.settings != lora.settings:
                adapter.detach(unet)
                adapter.attach(unet, lora.settings, 0, self._base.lora_targets)
            set_lora(unet, lora, use.strength)
            self._attached, self._in_use = lora, use
        return nullcontext()

"""Prediction errors of pairs: how far the model's answers are from the truth on each image of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor, nn

from ..lora import adapter
from ..models.base_model import BaseModel
from .batches import ImageBatch, PairBatch, stack
from .objectives import PairErrors


def pair_errors(
    base: BaseModel, unet: nn.Module, batch: PairBatch, *, reference: bool, split: bool = False
) -> PairErrors:
    """Mean squared error per sample, (pairs,) float32, of both images of each pair, in one forward of all images.

    reference: also the errors with the adapter switched off, without gradients. split: two forwards of half of the
    images instead (of pairs that share none, first the chosen ones), in less memory. `unet` may be wrapped (by
    Accelerate, by torch.compile).
    """
    parts = batch.images.split(2 if split else 1)
    references = reference_errors(base, unet, parts, batch.pair_index) if reference else (None, None)
    errors = torch.cat([mean_square(residuals(base, unet, part)) for part in parts])
    chosen, rejected = errors[on_device(batch.pair_index, errors.device)]
    return PairErrors(chosen, rejected, *references, preference=batch.preference, weight=batch.weight)


@torch.no_grad()
def measure_pairs(
    base: BaseModel,
    unet: nn.Module,
    draws: Sequence[PairBatch],
    device: torch.device,
    *,
    batch_size: int,
    reference: bool = False,
    split: bool = False,
) -> PairErrors:
    """`pair_errors` of draws of pairs of one size, on `device`, in batches of at most `batch_size`, to measure only."""
    batches = [stack(draws[start : start + batch_size]) for start in range(0, len(draws), batch_size)]
    errors = [pair_errors(base, unet, one.to(device), reference=reference, split=split) for one in batches]
    names = [field.name for field in fields(PairErrors) if getattr(errors[0], field.name) is not None]
    return PairErrors(**{name: torch.cat([getattr(one, name) for one in errors]) for name in names})


@torch.no_grad()
def reference_errors(
    base: BaseModel, unet: nn.Module, parts: list[ImageBatch], pair_index: Tensor
) -> tuple[Tensor, Tensor]:
    """The errors on the chosen and the rejected images with the adapter switched off; a forward for each part."""
    with adapter.disabled(unet):
        errors = torch.cat([mean_square(residuals(base, unet, part)) for part in parts])
    chosen, rejected = errors[on_device(pair_index, errors.device)]
    return chosen, rejected


def residuals(base: BaseModel, unet: nn.Module, images: ImageBatch) -> Tensor:
    """Prediction minus target, (n, c, h, w) float32."""
    noisy = base.schedule.add_noise(images.latents, images.noise, images.timestep)
    prediction = base.predict(unet, noisy, images.timestep, images.text, images.framing)
    # float32 whatever the model computes in: a square of a small difference is lost in half precision.
    return prediction.float() - base.schedule.target(images.latents, images.noise, images.timestep)


def mean_square(residuals: Tensor) -> Tensor:
    """The error of each image, (n,)."""
    return residuals.square().mean(dim=(1, 2, 3))


def on_device(pair_index: Tensor, device: torch.device) -> Tensor:
    """A pair index, which lies on the CPU, where it can index errors; nothing waits for it."""
    return pair_index.to(device, non_blocking=True)

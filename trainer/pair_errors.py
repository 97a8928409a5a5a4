"""How far are the model's answers from the truth on a batch of pairs?"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from . import adapters
from .batches import PairBatch
from .families.base import Base
from .objectives import PairErrors


def pair_errors(base: Base, unet: nn.Module, batch: PairBatch, *, reference: bool, split: bool = False) -> PairErrors:
    """Mean squared error per sample, (pairs,) float32, of both pictures in one forward pass of 2 * pairs.

    Noise, timestep, text and framing are those of the pair for both of its pictures. reference: also the errors with
    the adapter switched off, without gradients. split: two forward passes of `pairs` instead, chosen first, in less
    memory. `unet` may be wrapped (by Accelerate, by torch.compile).
    """
    references = reference_errors(base, unet, batch, split=split) if reference else (None, None)
    chosen, rejected = _errors(base, unet, batch, split)
    return PairErrors(chosen, rejected, *references, preference=batch.preference, weight=batch.weight)


@torch.no_grad()
def reference_errors(base: Base, unet: nn.Module, batch: PairBatch, *, split: bool) -> tuple[Tensor, Tensor]:
    """The errors on the chosen and the rejected pictures with the adapter switched off; see `pair_errors`."""
    with adapters.disabled(unet):
        return _errors(base, unet, batch, split)


def picture_errors(base: Base, unet: nn.Module, batch: PairBatch, clean: Tensor) -> Tensor:
    """Mean squared error, (pairs,) float32, on one picture of each pair; clean: its latents, (pairs, c, h, w)."""
    return mean_square(residuals(base, unet, batch, clean))


def residuals(base: Base, unet: nn.Module, batch: PairBatch, clean: Tensor) -> Tensor:
    """Prediction minus target, (pairs, c, h, w) float32, on one picture of each pair; clean: its latents."""
    noisy = base.schedule.add_noise(clean, batch.noise, batch.timestep)
    answer = base.predict(unet, noisy, batch.timestep, batch.text, batch.framing)
    # float32 whatever the model computes in: a square of a small difference is lost in half precision.
    return answer.float() - base.schedule.target(clean, batch.noise, batch.timestep)


def residuals_together(base: Base, unet: nn.Module, batch: PairBatch) -> tuple[Tensor, Tensor]:
    """`residuals` of the chosen and of the rejected pictures, in one forward pass of 2 * pairs."""
    shared = {name: _twice(getattr(batch, name)) for name in ("noise", "timestep", "framing")}
    both = replace(batch, **shared, text={name: _twice(tensor) for name, tensor in batch.text.items()})
    chosen, rejected = residuals(base, unet, both, torch.cat([batch.chosen, batch.rejected])).chunk(2)
    return chosen, rejected


def mean_square(residuals: Tensor) -> Tensor:
    """The error of each picture, (pairs,)."""
    return residuals.square().mean(dim=(1, 2, 3))


def _errors(base: Base, unet: nn.Module, batch: PairBatch, split: bool) -> tuple[Tensor, Tensor]:
    if split:
        return picture_errors(base, unet, batch, batch.chosen), picture_errors(base, unet, batch, batch.rejected)
    chosen, rejected = residuals_together(base, unet, batch)
    return mean_square(chosen), mean_square(rejected)


def _twice(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor])

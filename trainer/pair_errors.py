"""How far are the model's answers from the truth on a batch of pairs?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import adapters
from .batches import PairBatch
from .families.base import Base
from .objectives import PairErrors


def pair_errors(base: Base, unet: nn.Module, batch: PairBatch, *, reference: bool) -> PairErrors:
    """Mean squared error per sample, (pairs,) float32, of both pictures in one forward pass of 2 * pairs.

    Noise, timestep, text and framing are those of the pair for both of its pictures. reference: also the errors with
    the adapter switched off, without gradients. `unet` may be wrapped (by Accelerate, by torch.compile).
    """
    chosen, rejected = _errors(base, unet, batch)
    reference_errors: tuple[Tensor | None, Tensor | None] = (None, None)
    if reference:
        with torch.no_grad(), adapters.disabled(unet):
            reference_errors = _errors(base, unet, batch)
    return PairErrors(chosen, rejected, *reference_errors, preference=batch.preference, weight=batch.weight)


def _errors(base: Base, unet: nn.Module, batch: PairBatch) -> tuple[Tensor, Tensor]:
    clean = torch.cat([batch.chosen, batch.rejected])
    noise, timestep, framing = (_twice(one) for one in (batch.noise, batch.timestep, batch.framing))
    text = {name: _twice(tensor) for name, tensor in batch.text.items()}
    noisy = base.schedule.add_noise(clean, noise, timestep)
    answer = base.predict(unet, noisy, timestep, text, framing)
    # float32 whatever the model computes in: a square of a small difference is lost in half precision.
    error = (answer.float() - base.schedule.target(clean, noise, timestep)).square().mean(dim=(1, 2, 3))
    chosen, rejected = error.chunk(2)
    return chosen, rejected


def _twice(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor])

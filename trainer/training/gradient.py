"""The gradient of a batch of pairs: forward, loss and backward, of all images at once or of one part after another.

An objective is a function of two numbers a pair, the errors of the chosen and of the rejected image. So the chain rule
asks for the two images together only once: d loss / d error needs both errors. What an image adds to the LoRA's
gradient is its own error's gradient times the sum of that number over its pairs, and the activations of one image are
enough to compute it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from ..models.base_model import BaseModel
from .batches import PairBatch
from .objectives import LossOutput, Objective, PairErrors
from .pair_errors import mean_square, on_device, reference_errors, residuals
from .safeguard import safeguard_factor

GradientMode = Literal["joint", "recompute", "split"]
"""joint: both images of a pair in one forward.
recompute: a part's activations are gone before those of the next are made; a third more forwards.
split: two forwards, and two backwards after both; for activations that wait outside of the device's memory."""


def gradient_mode(split_pair: bool, gradient_checkpointing: str) -> GradientMode:
    """The mode that these settings ask for: what is kept on the host anyway need not be computed a third time."""
    if not split_pair:
        return "joint"
    return "split" if gradient_checkpointing == "offload" else "recompute"


def accumulate_gradient(
    base: BaseModel,
    unet: nn.Module,
    batch: PairBatch,
    objective: Objective,
    backward: Callable[[Tensor], None],
    *,
    mode: GradientMode,
    seed: int,
    safeguard: float | None = None,
    max_images: int | None = None,
) -> tuple[LossOutput, PairErrors]:
    """Add the gradient of the mean loss over `batch` to the parameters' `.grad`; nothing waits for the device.

    All parts but the first go through without a graph (split: with one), the first with the graph that its backward
    needs; then the others again, with a graph. Each part has a backward of its own: in one of all, the LoRA's gradient
    of the first would wait for the others, weight by weight, beside the one that all are added to.

    backward: what is called with a scalar in place of its `.backward()`, once for each part; scaling it scales the
    gradient. seed: of LoRA dropout; each part draws from its own, so a mode draws other masks than another. Without
    dropout all modes give the same gradient, up to the rounding of sums. safeguard: mu of safeguard.py, which lets
    through only a part of the rejected images' gradient. max_images: in one forward, of those that several pairs
    share; a ranking of more goes through in parts whatever the mode. What is returned carries no gradient.
    """
    parts = batch.images.split(_part_count(batch, mode, max_images))
    keep_graph = mode == "split" and len(parts) <= 2  # more would keep more than the two images of a pair do
    reference: tuple[Tensor | None, Tensor | None] = (None, None)
    if objective.needs_reference:
        reference = reference_errors(base, unet, parts, batch.pair_index)

    def forward(i: int) -> Tensor:
        torch.manual_seed(seed + i)  # the same masks again where a part is recomputed
        return residuals(base, unet, parts[i])

    part_errors: list[Tensor] = []
    part_residuals: list[Tensor] = []
    for i in reversed(range(len(parts))):
        with torch.set_grad_enabled(keep_graph or i == 0):
            residual = forward(i)
            part_errors.insert(0, mean_square(residual))
            if safeguard is not None:
                part_residuals.insert(0, residual.detach())
            del residual  # no graph may outlive its backward

    index = on_device(batch.pair_index, part_errors[0].device)
    errors = PairErrors(*torch.cat(part_errors)[index], *reference, batch.preference, batch.weight)
    if len(parts) == 1 and safeguard is None and not batch.shares_images:
        # Every error has its graph and goes into the loss as it is: autograd does the rest, in float64 to the errors.
        loss_output = objective(errors)
        backward(loss_output.loss)
        return loss_output, _detached(errors)

    errors = _detached(errors)
    loss_output, slopes = _slopes(objective, errors, safeguard, part_residuals, index)
    part_residuals.clear()
    has_slope = torch.zeros(len(batch.images), dtype=torch.bool)
    weights = errors.chosen.new_zeros(len(batch.images))
    for side, slope in enumerate(slopes):
        if slope is not None:
            has_slope[batch.pair_index[side]] = True
            weights = weights.index_add(0, index[side], slope)
    sizes = [len(part) for part in parts]
    for i, (weight, needed) in enumerate(zip(weights.split(sizes), has_slope.split(sizes), strict=True)):
        error = part_errors.pop(0)
        if not needed.any():
            continue
        if not error.requires_grad:
            error = mean_square(forward(i))
        backward((error * weight).sum())
        del error
    return loss_output, errors


def _part_count(batch: PairBatch, mode: GradientMode, max_images: int | None) -> int:
    if not batch.shares_images:
        return 1 if mode == "joint" else 2  # the chosen images, then the rejected ones
    return 1 if max_images is None else -(-len(batch.images) // max_images)


def _slopes(
    objective: Objective, errors: PairErrors, safeguard: float | None, part_residuals: list[Tensor], index: Tensor
) -> tuple[LossOutput, list[Tensor | None]]:
    """The loss, and d loss / d error of the chosen and of the rejected image of each pair, (pairs,), or what the
    safeguard leaves of it; None where the loss does not depend on an error."""
    chosen, rejected = errors.chosen.detach().requires_grad_(), errors.rejected.detach().requires_grad_()
    loss_output = objective(replace(errors, chosen=chosen, rejected=rejected))
    grad_chosen, grad_rejected = torch.autograd.grad(loss_output.loss, (chosen, rejected), allow_unused=True)
    if safeguard is not None and grad_chosen is not None and grad_rejected is not None:
        residual = torch.cat(part_residuals)
        overlap = (residual[index[0]] * residual[index[1]]).mean(dim=(1, 2, 3))
        grad_rejected = grad_rejected * safeguard_factor(grad_chosen, grad_rejected, errors.chosen, overlap, safeguard)
    return loss_output, [grad_chosen, grad_rejected]


def _detached(errors: PairErrors) -> PairErrors:
    return replace(errors, chosen=errors.chosen.detach(), rejected=errors.rejected.detach())

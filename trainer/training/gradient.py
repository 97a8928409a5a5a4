"""How does the gradient of a batch of pairs get onto the LoRA: of both pictures at once, or of one after the other?

An objective is a function of two numbers a pair, the errors of the chosen and of the rejected picture. So the chain
rule asks for the two pictures together only once: d loss / d error needs both errors. What a picture adds to the LoRA's
gradient is its own error's gradient times that number, and the activations of one picture are enough to compute it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from ..lora import adapter
from ..models.base_model import BaseModel
from .batches import PairBatch
from .objectives import Judged, Objective, PairErrors
from .pair_errors import (
    each_once,
    for_rejected,
    mean_square,
    pair_errors,
    reference_errors,
    residuals,
    residuals_together,
    shared_errors,
)
from .safeguard import let_through

Way = Literal["together", "one by one", "kept apart"]
"""together: both pictures in one forward of twice the size.
one by one: a picture's activations are gone before those of the other are made; a third more forwards.
kept apart: two forwards, and two backwards after both; for activations that wait outside of the device's memory."""


def way_of(split_pair: bool, gradient_checkpointing: str) -> Way:
    """The way that these settings ask for: what is kept on the host anyway need not be computed a third time."""
    if not split_pair:
        return "together"
    return "kept apart" if gradient_checkpointing == "offload" else "one by one"


def add_gradient(
    base: BaseModel,
    unet: nn.Module,
    batch: PairBatch,
    objective: Objective,
    backward: Callable[[Tensor], None],
    *,
    way: Way,
    seed: int,
    guard: float | None = None,
    most: int | None = None,
) -> tuple[Judged, PairErrors]:
    """Add the gradient of the mean loss over `batch` to the parameters' `.grad`; nothing waits for the device.

    backward: what is called with a scalar in place of its `.backward()`, once or (separately) twice; scaling it scales
    the gradient. seed: of LoRA dropout where the pictures go separately; the masks of the two are drawn independently,
    as they are where both go together, but they are other draws. Without dropout all ways give the same gradient, up
    to the rounding of sums. guard: mu of loser_guard.py, which lets through only a part of the rejected pictures'
    gradient. most: pictures at once, of those that several pairs share; where a ranking has more, they go through in
    parts whatever the way. The errors that are returned carry no gradient.
    """
    if batch.places is not None:
        return _shared(base, unet, batch, objective, backward, seed, guard, most, kept=way == "kept apart")
    if way != "together":
        return _apart(base, unet, batch, objective, backward, seed, guard, kept=way == "kept apart")
    if guard is not None:
        return _together_guarded(base, unet, batch, objective, backward, guard)
    errors = pair_errors(base, unet, batch, reference=objective.needs_reference)
    judged = objective(errors)
    backward(judged.loss.to(errors.chosen.device))
    return judged, errors


def _together_guarded(
    base: BaseModel,
    unet: nn.Module,
    batch: PairBatch,
    objective: Objective,
    backward: Callable[[Tensor], None],
    guard: float,
) -> tuple[Judged, PairErrors]:
    references = reference_errors(base, unet, batch, split=False) if objective.needs_reference else (None, None)
    of_chosen, of_rejected = residuals_together(base, unet, batch)
    chosen, rejected = mean_square(of_chosen), mean_square(of_rejected)
    errors = PairErrors(chosen.detach(), rejected.detach(), *references, batch.preference, batch.weight)
    judged, slopes = _slopes(objective, errors, of_chosen.detach(), of_rejected.detach(), guard)
    backward(
        sum((error * slope).sum() for error, slope in zip((chosen, rejected), slopes, strict=True) if slope is not None)
    )
    return judged, errors


def _slopes(
    objective: Objective, errors: PairErrors, of_chosen: Tensor, of_rejected: Tensor, guard: float | None
) -> tuple[Judged, list[Tensor | None]]:
    """What the objective says, and how much of each picture's own gradient is to be added: d loss / d error, (pairs,).

    None where the loss does not depend on an error. of_chosen, of_rejected: residuals, for the guard.
    """
    ends = errors.chosen.detach().requires_grad_(), errors.rejected.detach().requires_grad_()
    judged = objective(replace(errors, chosen=ends[0], rejected=ends[1]))
    pull, push = torch.autograd.grad(judged.loss, ends, allow_unused=True)
    if guard is not None and pull is not None and push is not None:
        overlap = (of_chosen * of_rejected).mean(dim=(1, 2, 3))
        push = push * let_through(pull, push, errors.chosen, overlap, guard)
    return judged, [pull, push]


def _apart(
    base: BaseModel,
    unet: nn.Module,
    batch: PairBatch,
    objective: Objective,
    backward: Callable[[Tensor], None],
    seed: int,
    guard: float | None,
    *,
    kept: bool,
) -> tuple[Judged, PairErrors]:
    """Rejected without a graph; chosen with the graph that its backward needs; then rejected again, with a graph.

    Two of the three forwards are needed anyway. Where the loss does not depend on the rejected picture, as in SFT, the
    graph of the objective says so, and the third is left out. kept: rejected with a graph at once, and no third. Even
    so each picture has a backward of its own: in one of both, the LoRA's gradient of the first would wait for the
    second, weight by weight, beside the one that both are added to.
    """
    references = reference_errors(base, unet, batch, split=True) if objective.needs_reference else (None, None)

    def off(batch: PairBatch, picture: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)  # twice for the rejected picture: what is judged is what is corrected
        return residuals(base, unet, batch, picture)

    with torch.set_grad_enabled(kept):
        rejected_off = off(for_rejected(batch), batch.rejected, seed + 1)
        rejected = mean_square(rejected_off)
    rejected_off = rejected_off.detach()  # no graph may live on after its backward by what the guard looks at
    chosen_off = off(batch, batch.chosen, seed)
    chosen = mean_square(chosen_off)
    chosen_off = chosen_off.detach()

    errors = PairErrors(chosen.detach(), rejected.detach(), *references, batch.preference, batch.weight)
    judged, (of_chosen, of_rejected) = _slopes(objective, errors, chosen_off, rejected_off, guard)
    del chosen_off, rejected_off
    if of_chosen is not None:
        backward((chosen * of_chosen).sum())
    del chosen
    if of_rejected is not None:
        again = rejected if kept else mean_square(off(for_rejected(batch), batch.rejected, seed + 1))
        backward((again * of_rejected).sum())
    return judged, errors


def _shared(
    base: BaseModel,
    unet: nn.Module,
    batch: PairBatch,
    objective: Objective,
    backward: Callable[[Tensor], None],
    seed: int,
    guard: float | None,
    most: int | None,
    *,
    kept: bool,
) -> tuple[Judged, PairErrors]:
    """Of pictures that are in several pairs: a picture's gradient is its error's, times what all of its pairs say.

    All parts but the first without a graph; the first with the graph that its backward needs; then the others again,
    with a graph. kept: see `_apart`; more than two parts would keep more than both pictures of a pair do.
    """
    pictures = each_once(batch, most)
    kept = kept and len(pictures.parts) <= 2
    references: tuple[Tensor | None, Tensor | None] = (None, None)
    if objective.needs_reference:
        with torch.no_grad(), adapter.disabled(unet):
            references = shared_errors(base, unet, pictures)

    def off(number: int) -> Tensor:
        torch.manual_seed(seed + number)  # twice but for the first: what is judged is what is corrected
        return residuals(base, unet, *pictures.parts[number])

    waiting: dict[int, Tensor] = {}
    seen: dict[int, Tensor] = {}
    for number in reversed(range(len(pictures.parts))):
        with torch.set_grad_enabled(kept or number == 0):
            found = off(number)
            waiting[number], seen[number] = mean_square(found), found.detach()
            del found
    all_off = torch.cat([seen.pop(number) for number in range(len(pictures.parts))])
    chosen, rejected = mean_square(all_off)[pictures.places]
    errors = PairErrors(chosen, rejected, *references, batch.preference, batch.weight)
    judged, slopes = _slopes(objective, errors, *(all_off[places] for places in pictures.places), guard)
    wanted = all_off.new_zeros(len(all_off))
    for places, slope in zip(pictures.places, slopes, strict=True):
        if slope is not None:
            wanted = wanted.index_add(0, places, slope)
    del all_off
    for number, of_part in enumerate(wanted.split([len(error) for _, error in sorted(waiting.items())])):
        known = waiting.pop(number)
        error = known if known.requires_grad else mean_square(off(number))
        del known
        backward((error * of_part).sum())
        del error
    return judged, errors

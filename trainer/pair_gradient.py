"""How does the gradient of a batch of pairs get onto the LoRA: of both pictures at once, or of one after the other?

An objective is a function of two numbers a pair, the errors of the chosen and of the rejected picture. So the chain
rule asks for the two pictures together only once: d loss / d error needs both errors. What a picture adds to the LoRA's
gradient is its own error's gradient times that number, and the activations of one picture are enough to compute it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from .batches import PairBatch
from .families.base import Base
from .objectives import Judged, Objective, PairErrors
from .pair_errors import pair_errors, picture_errors, reference_errors

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
    base: Base,
    unet: nn.Module,
    batch: PairBatch,
    objective: Objective,
    backward: Callable[[Tensor], None],
    *,
    way: Way,
    seed: int,
) -> tuple[Judged, PairErrors]:
    """Add the gradient of the mean loss over `batch` to the parameters' `.grad`; nothing waits for the device.

    backward: what is called with a scalar in place of its `.backward()`, once or (separately) twice; scaling it scales
    the gradient. seed: of LoRA dropout where the pictures go separately; the masks of the two are drawn independently,
    as they are where both go together, but they are other draws. Without dropout all ways give the same gradient, up
    to the rounding of sums. The errors that are returned carry no gradient.
    """
    if way != "together":
        return _apart(base, unet, batch, objective, backward, seed, kept=way == "kept apart")
    errors = pair_errors(base, unet, batch, reference=objective.needs_reference)
    judged = objective(errors)
    backward(judged.loss.to(errors.chosen.device))
    return judged, errors


def _apart(
    base: Base,
    unet: nn.Module,
    batch: PairBatch,
    objective: Objective,
    backward: Callable[[Tensor], None],
    seed: int,
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

    def error(picture: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)  # twice for the rejected picture: what is judged is what is corrected
        return picture_errors(base, unet, batch, picture)

    with torch.set_grad_enabled(kept):
        rejected = error(batch.rejected, seed + 1)
    chosen = error(batch.chosen, seed)

    ends = chosen.detach().requires_grad_(), rejected.detach().requires_grad_()
    judged = objective(PairErrors(*ends, *references, batch.preference, batch.weight))
    of_chosen, of_rejected = torch.autograd.grad(judged.loss, ends, allow_unused=True)
    if of_chosen is not None:
        backward((chosen * of_chosen).sum())
    del chosen
    if of_rejected is not None:
        again = rejected if kept else error(batch.rejected, seed + 1)
        backward((again * of_rejected).sum())
    return judged, PairErrors(*(end.detach() for end in ends), *references, batch.preference, batch.weight)

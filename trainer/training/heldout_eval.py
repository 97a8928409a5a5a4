"""Held-out evaluation: how well the model agrees with judgements that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..distributed import SINGLE, World
from ..intervals import wilson_interval
from ..latents.encode import EncodedPair
from ..models.base_model import BaseModel
from .batches import draw_pair
from .objectives import Objective
from .pair_errors import measure_pairs


@dataclass(frozen=True)
class EvalResult:
    """Measured on held-out pairs at fixed noise and noise levels, so that two steps of a run can be compared.

    agreement: share of pairs whose margin, averaged over the noise levels, is positive; low, high: its 95 % interval.
    chosen_error, rejected_error: mean squared errors on the chosen and on the rejected images; margin: the mean margin.
    agreeing: a sign for each pair in order, 1 where its margin is positive, so that two trainings can be compared pair
    by pair; empty where it was not kept.
    """

    pairs: int
    agreement: float
    low: float
    high: float
    chosen_error: float
    rejected_error: float
    margin: float
    agreeing: str = ""


class HeldOut:
    """The held-out pairs of a run, with noise and noise levels that depend on nothing but the pair."""

    def __init__(
        self,
        pairs: Sequence[EncodedPair],
        *,
        timesteps: int | Sequence[int],
        levels: int,
        batch_size: int,
        split: bool = False,
    ):
        """timesteps: that are trained at (a number: all below it); levels: how many of them are measured at most;
        batch_size: forwards at once; split: the two images of a pair one after the other, see `pair_errors`."""
        self._pairs = pairs
        self._batch_size = batch_size
        self._split = split
        # The middles of equal parts of the schedule: every kind of error counts, none twice.
        among = range(timesteps) if isinstance(timesteps, int) else timesteps
        levels = min(levels, len(among))
        self._levels = [among[int((level + 0.5) * len(among) / levels)] for level in range(levels)]

    def __len__(self) -> int:
        return len(self._pairs)

    @torch.no_grad()
    def measure(
        self, base: BaseModel, unet: nn.Module, objective: Objective, device: torch.device, world: World = SINGLE
    ) -> EvalResult:
        """Leaves the model in the mode it was in; the device is waited for once, at the end.

        Each of several processes measures its share; all of them get the same.
        """
        training = unet.training
        unet.eval()
        own = [self._measure_pair(pair, base, unet, objective, device) for pair in world.shard(self._pairs)]
        unet.train(training)
        rows = world.all_gather(torch.stack(own).tolist() if own else [])
        chosen, rejected, margin = torch.tensor(rows).T
        signs = "".join("1" if above else "0" for above in (margin > 0).tolist())
        low, high = wilson_interval(signs.count("1"), len(rows))
        return EvalResult(
            pairs=len(rows),
            agreement=signs.count("1") / len(rows),
            low=low,
            high=high,
            chosen_error=chosen.mean().item(),
            rejected_error=rejected.mean().item(),
            margin=margin.mean().item(),
            agreeing=signs,
        )

    @torch.no_grad()
    def margins(self, base: BaseModel, unet: nn.Module, objective: Objective, device: torch.device) -> Iterator[float]:
        """The margin of each pair, in order, of a model in evaluation mode. The device is waited for at every pair."""
        for pair in self._pairs:
            yield self._measure_pair(pair, base, unet, objective, device)[2].item()

    def _measure_pair(
        self, encoded: EncodedPair, base: BaseModel, unet: nn.Module, objective: Objective, device: torch.device
    ) -> Tensor:
        """(3,): chosen error, rejected error and margin, averaged over the noise levels."""
        errors = measure_pairs(
            base,
            unet,
            [draw_pair(encoded, level, "held-out") for level in self._levels],
            device,
            batch_size=self._batch_size,
            reference=objective.needs_reference,
            split=self._split,
        )
        margin = objective(errors).margin.to(errors.chosen)
        return torch.stack([errors.chosen, errors.rejected, margin]).mean(dim=1)

"""The numbers of every step, gathered on the device and read all at once, so that no step waits for them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ..distributed import SINGLE, World
from ..errors import UserError
from ..preferences.pairs import Pair
from ..runs.run_folder import Run
from .batches import PairBatch

# One step's numbers, in this order: means over its pairs, and the norm of its gradient before clipping.
NAMES = ("loss", "chosen_error", "rejected_error", "margin", "agreement", "gradient_norm")


class Meter:
    """Collects each step's numbers and writes them as `step` events of the run."""

    def __init__(self, run: Run, steps: int, *, loss_scaling: bool, world: World = SINGLE):
        """steps: of the whole run. loss_scaling: float16 training, where a gradient that overflows is skipped by the
        scaler and only the errors themselves must be finite."""
        self._run = run
        self._steps = steps
        self._world = world
        self._must_be_finite = 5 if loss_scaling else len(NAMES)
        self._waiting: list[tuple[int, float, Tensor, list[Pair]]] = []
        self._since = time.perf_counter()

    def add(self, step: int, numbers: Tensor, learning_rate: float, batches: Sequence[PairBatch]) -> None:
        """Step number `step`, from 1, was taken with these batches; numbers: in the order of NAMES, on the device."""
        # Only which pairs they were is kept: their tensors would stay on the device until the numbers are read.
        pairs = [encoded.pair for batch in batches for encoded in batch.pairs]
        self._waiting.append((step, learning_rate, numbers, pairs))

    def read(self) -> None:
        """Wait for the device, write what was gathered. Raises UserError where a number is not finite."""
        if not self._waiting:
            return
        rows = torch.stack([numbers for _, _, numbers, _ in self._waiting]).cpu().tolist()
        now = time.perf_counter()
        seconds = (now - self._since) / len(rows)
        for (step, learning_rate, _, pairs), row in zip(self._waiting, rows, strict=True):
            self._run.log(
                "step",
                step=step,
                **dict(zip(NAMES, row, strict=True)),
                learning_rate=learning_rate,
                seconds=round(seconds, 4),
                remaining=round(seconds * (self._steps - step), 1),
            )
            if not all(map(math.isfinite, row[: self._must_be_finite])):
                # The numbers are those of all processes, so all of them come here.
                raise UserError(_not_finite(self._run, step, self._world.all_gather(pairs)))
        self._waiting.clear()
        self._since = now

    def restart(self) -> None:
        """The first step begins now."""
        self._since = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count as time of a step."""
        begun = time.perf_counter()
        yield
        self._since += time.perf_counter() - begun


def _not_finite(run: Run, step: int, pairs: list[Pair]) -> str:
    named = "; ".join(f"{pair.id} ({pair.chosen.label} over {pair.rejected.label})" for pair in pairs[:8])
    more = f" and {len(pairs) - 8} more" if len(pairs) > 8 else ""
    return (
        f"step {step} gave a loss or gradient that is not a finite number, with the pairs {named}{more}. The last good "
        f"state is kept in {run.state_folder}: look at these pictures, or lower learning_rate in {run.settings_file}, "
        f"then `mapo resume {run.name}`"
    )

"""Step metrics: gathered on the device and written together, so that no step waits for them."""

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

METRICS = ("loss", "chosen_error", "rejected_error", "margin", "agreement", "gradient_norm")
"""Of a step, in this order: means over its pairs, and the norm of its gradient before clipping."""


class StepMetrics:
    """Collects each step's metrics and writes them as `step` events of the run."""

    def __init__(self, run: Run, steps: int, *, every: int = 1, loss_scaling: bool = False, world: World = SINGLE):
        """steps: of the whole run. every: how many steps are written together; the first one is written at once.

        loss_scaling: float16 training, where a gradient that overflows is skipped by the scaler and only the errors
        themselves must be finite.
        """
        self._run = run
        self._steps = steps
        self._every = every
        self._world = world
        self._must_be_finite = 5 if loss_scaling else len(METRICS)
        self._pending: list[tuple[int, float, Tensor, list[Pair]]] = []
        self._since = time.perf_counter()
        self._paused_at: float | None = None
        self._is_first = True

    def add(self, step: int, values: Tensor, learning_rate: float, batches: Sequence[PairBatch]) -> None:
        """Step number `step`, from 1, was taken with these batches. values: (len(METRICS),), on the device."""
        # Only which pairs they were is kept: their tensors would stay on the device until the values are read.
        pairs = [encoded.pair for batch in batches for encoded in batch.pairs]
        self._pending.append((step, learning_rate, values, pairs))
        if step % self._every == 0 or self._is_first:  # the first at once: a person waits for a sign of life
            self.flush()
        self._is_first = False

    def flush(self) -> None:
        """Wait for the device and write what was collected. Raises UserError where a number is not finite."""
        if not self._pending:
            return
        rows = torch.stack([values for _, _, values, _ in self._pending]).cpu().tolist()
        now = time.perf_counter() if self._paused_at is None else self._paused_at
        seconds = (now - self._since) / len(rows)
        for (step, learning_rate, _, pairs), row in zip(self._pending, rows, strict=True):
            self._run.log(
                "step",
                step=step,
                **dict(zip(METRICS, row, strict=True)),
                learning_rate=learning_rate,
                seconds=round(seconds, 4),
                remaining=round(seconds * (self._steps - step), 1),
            )
            if not all(map(math.isfinite, row[: self._must_be_finite])):
                # The numbers are those of all processes, so all of them come here.
                raise UserError(_not_finite(self._run, step, self._world.all_gather(pairs)))
        self._pending.clear()
        self._since = now

    def restart(self) -> None:
        """The first step begins now."""
        self._since = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count as time of a step."""
        self._paused_at = time.perf_counter()
        yield
        self._since += time.perf_counter() - self._paused_at
        self._paused_at = None


def _not_finite(run: Run, step: int, pairs: list[Pair]) -> str:
    named = "; ".join(f"{pair.id} ({pair.chosen.label} over {pair.rejected.label})" for pair in pairs[:8])
    more = f" and {len(pairs) - 8} more" if len(pairs) > 8 else ""
    return (
        f"step {step} gave a loss or gradient that is not a finite number, with the pairs {named}{more}. The last good "
        f"state is kept in {run.state_folder}: look at these pictures, or lower learning_rate in {run.settings_file}, "
        f"then `mapo resume {run.name}`"
    )

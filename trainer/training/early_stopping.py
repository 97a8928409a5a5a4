"""Best-checkpoint selection, early stopping, and a warning when the error on chosen images rises.

What was measured on the held-out pairs is read in the order in which it was measured, and nothing else is: a run that
is resumed comes to the same answers.

Agreement on a few dozen pairs is coarse, and reaches its highest value long before a LoRA has learned what it can. So a
later point is the best one rather than an earlier one, unless there is a reason against it:
- its agreement is clearly lower than the highest so far: by more than one standard error, and by more than one pair;
- or, where it is not clearly higher than the best one's, its error on the chosen images is clearly higher than it was
  at the best point of like agreement: it agrees no better and generates worse.
The point before the first step is never the best: there is no LoRA in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..config.run_config import ObjectiveConfig
from ..runs.run_folder import Event
from ..text import format_percent

CLEARLY_WORSE = 1.1
"""Times an error: far more than the rounding of another card, and seen in images."""
_IMPROVED = 0.99
_HIGH_AGREEMENT = 0.6
_CLEAR_RISE = 1.2
"""Times the lowest error. A push that teaches well raises it by some 10 % on the way, and it falls again."""

_LESS_PUSH = {
    "dpo": "Lower `--learning-rate`, or use `--objective mapo` or `dpo+sft`, which also hold on to the chosen pictures",
    "mapo-released": "Lower `--learning-rate`, or use `--objective mapo` with a lower `--push`",
    "sft": "Lower `--learning-rate`, or take fewer `--steps`",
    "dpo+sft": "Raise `--likelihood-weight` or lower `--learning-rate`",
}


@dataclass(frozen=True)
class EvalPoint:
    """What was measured after `step` steps on `pairs` held-out pairs. chosen_error: mean squared, on chosen images."""

    step: int
    agreement: float
    pairs: int
    chosen_error: float


@dataclass(frozen=True)
class EvalHistory:
    """All points of a training that came to a number, and what follows from them; extended by `after`.

    best: None before the first. highest: agreement at any point; lowest: chosen error among points of like agreement.
    stale: points in a row without a higher agreement, or a lower chosen error at an agreement that is as high as any.
    lowest_at: the lowest chosen error at any point, and its step.
    """

    points: tuple[EvalPoint, ...] = ()
    best: EvalPoint | None = None
    highest: float = -math.inf
    lowest: float = math.inf
    stale: int = 0
    lowest_at: tuple[float, int] = (math.inf, 0)

    @classmethod
    def of(cls, points: Iterable[EvalPoint]) -> EvalHistory:
        """The history of these points, the oldest first."""
        history = cls()
        for point in points:
            history = history.after(point)
        return history

    @property
    def newest(self) -> EvalPoint | None:
        return self.points[-1] if self.points else None

    def after(self, point: EvalPoint) -> EvalHistory:
        """The history with one point more. What is measured at a step once more changes nothing."""
        if self.newest and point.step == self.newest.step:
            return self
        noise = noise_floor(self.highest, point.pairs)
        high = point.agreement >= self.highest - noise
        improved = point.agreement > self.highest or (high and point.chosen_error < _IMPROVED * self.lowest)
        now = replace(
            self,
            points=(*self.points, point),
            highest=max(self.highest, point.agreement),
            stale=0 if improved else self.stale + 1,
            lowest_at=min(self.lowest_at, (point.chosen_error, point.step)),
        )
        if point.step == 0:
            return now
        if self.best is None or point.agreement > self.best.agreement + noise:
            return replace(now, best=point, lowest=point.chosen_error)
        if high and point.chosen_error <= CLEARLY_WORSE * self.lowest:
            return replace(now, best=point, lowest=min(self.lowest, point.chosen_error))
        return now

    def best_step(self, step: int) -> int:
        """Which step's weights to keep of a training that has ended after `step`.

        Those of the end unless an earlier point was better than the newest: steps after that one count as it does.
        """
        return step if self.best is None or self.best == self.newest else self.best.step

    def reason(self) -> str:
        """Why an earlier point than the newest is the best, for a person; "" where none is."""
        if self.best is None or self.newest is None or self.best == self.newest:
            return ""
        before, after = self.best, self.newest
        if after.agreement < before.agreement - noise_floor(self.highest, after.pairs):
            return (
                f"the agreement fell from {format_percent(before.agreement)} to {format_percent(after.agreement)} since"
            )
        higher = f"{format_percent(after.chosen_error / before.chosen_error - 1)} higher since"
        return f"the agreement rose no further, and the error on the chosen pictures is {higher}"

    def chosen_error_rise(self, point: EvalPoint) -> tuple[float, int] | None:
        """By which share the error on the chosen images is above its lowest before `point`, and at which step that
        was; None where it is not clearly, or where the agreement is low too and nothing was bought with it."""
        lowest, step = self.lowest_at
        if point.agreement < _HIGH_AGREEMENT or lowest <= 0 or point.chosen_error < _CLEAR_RISE * lowest:
            return None
        return point.chosen_error / lowest - 1, step

    def out_of_patience(self, patience: int) -> bool:
        """Early stopping: whether `patience` points in a row brought nothing; never with 0."""
        return 0 < patience <= self.stale


def noise_floor(agreement: float, pairs: int) -> float:
    """The difference from `agreement` that says nothing: one standard error (of a share drawn towards a half, so that
    100 % has one too), and at least one pair; 0 before anything was measured."""
    if not math.isfinite(agreement):
        return 0.0
    share = (agreement * pairs + 1) / (pairs + 2)
    return max(math.sqrt(share * (1 - share) / (pairs + 2)), 1 / pairs) + 1e-9


def history_of(events: Iterable[Event]) -> EvalHistory:
    """The history of a run by its events."""
    return EvalHistory.of(point for event in events if (point := point_of(event)))


def point_of(event: Event) -> EvalPoint | None:
    """What an `evaluation` event says; None for any other, and where a number is missing or was not finite."""
    values = [event.get(name) for name in ("step", "agreement", "pairs", "chosen_error")]
    if event.get("event") != "evaluation" or not all(isinstance(value, (int, float)) for value in values):
        return None
    step, agreement, pairs, error = values
    return EvalPoint(int(step), agreement, int(pairs), error) if pairs and math.isfinite(agreement + error) else None


def chosen_error_warning(objective: ObjectiveConfig, rise: float, since: int, agreement: float) -> str:
    """The warning for a person. rise: of the error on the chosen pictures, as a share of that at step `since`."""
    when = f" since step {since}" if since else ""
    return (
        "The model got better at telling your pictures apart by getting worse at painting: its error on the pictures "
        f"you chose rose by {format_percent(rise)}{when} while the agreement is {format_percent(agreement)}. "
        f"{_less_push(objective)}, and look closely at the sample pictures."
    )


def _less_push(objective: ObjectiveConfig) -> str:
    if objective.kind != "mapo":
        return _LESS_PUSH[objective.kind]
    weight = "--push" if objective.margin_weight == "auto" else "--margin-weight"
    guard = "" if objective.safeguard is not None else ", set `--safeguard 0.6`"
    return f"Lower `{weight}` or `--learning-rate`{guard}, or take fewer `--steps`"

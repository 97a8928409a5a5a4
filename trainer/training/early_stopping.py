"""Which moment of a training is kept as its result, does it still improve, and is it doing damage?

What was measured on the held-out pairs is read in the order in which it was measured, and nothing else is: a run that
goes on comes to the same answers.

Agreement on a few dozen pairs is coarse, and reaches its highest value long before a LoRA has learned what it can. So a
later moment is kept rather than an earlier one, unless there is a reason not to:
- its agreement is clearly lower than the highest so far: by more than one standard error, and by more than one pair;
- or, where it is not clearly higher than the kept one's, its error on the chosen pictures is clearly higher than it was
  at the best moment of like agreement: it agrees no better and paints worse.
The moment before the first step is never kept: there is no LoRA in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..config.run_config import ObjectiveConfig
from ..runs.run_folder import Event
from ..text import format_percent

CLEARLY_WORSE = 1.1
"""Times an error: far more than the rounding of another card, and seen in pictures."""
_BETTER_AT_ALL = 0.99
_HIGH_AGREEMENT = 0.6
_HARMFUL = 1.2
"""Times the lowest error. A push that teaches well raises it by some 10 % on the way, and it falls again."""

_LESS_PUSH = {
    "dpo": "Lower `--learning-rate`, or use `--objective mapo` or `dpo+sft`, which also hold on to the chosen pictures",
    "sft": "Lower `--learning-rate`, or take fewer `--steps`",
    "dpo+sft": "Raise `--likelihood-weight` or lower `--learning-rate`",
}


@dataclass(frozen=True)
class Moment:
    """What was measured after `step` steps on `pairs` held-out pairs."""

    step: int
    agreement: float
    pairs: int
    chosen_error: float


@dataclass(frozen=True)
class Standing:
    """How a training stands by all that was measured so far.

    kept: None before the first; newest: the last one. highest: agreement at any moment; lowest: chosen error among
    moments of like agreement.
    stale: moments in a row without a higher agreement, or a lower chosen error at one
    that is as high as any. least: the lowest chosen error at any moment, and the step where it was.
    """

    kept: Moment | None = None
    highest: float = -math.inf
    lowest: float = math.inf
    newest: Moment | None = None
    stale: int = 0
    least: tuple[float, int] = (math.inf, 0)

    def after(self, moment: Moment) -> Standing:
        """The standing with one moment more. What is measured at a step once more changes nothing."""
        if self.newest and moment.step == self.newest.step:
            return self
        least = min(self.least, (moment.chosen_error, moment.step))
        doubt = doubtful(self.highest, moment.pairs)
        high = moment.agreement >= self.highest - doubt
        improved = moment.agreement > self.highest or (high and moment.chosen_error < _BETTER_AT_ALL * self.lowest)
        now = replace(
            self,
            highest=max(self.highest, moment.agreement),
            newest=moment,
            stale=0 if improved else self.stale + 1,
            least=least,
        )
        if moment.step == 0:
            return now
        if self.kept is None or moment.agreement > self.kept.agreement + doubt:
            return replace(now, kept=moment, lowest=moment.chosen_error)
        if high and moment.chosen_error <= CLEARLY_WORSE * self.lowest:
            return replace(now, kept=moment, lowest=min(self.lowest, moment.chosen_error))
        return now

    def best(self, step: int) -> int:
        """Which step's weights to keep of a training that has ended after `step`.

        Those of the end unless an earlier moment was better than the newest: steps after that one count as it does.
        """
        return step if self.kept is None or self.kept == self.newest else self.kept.step

    def why(self) -> str:
        """Why an earlier moment is kept, for a person."""
        if self.kept is None or self.newest is None or self.kept == self.newest:
            return ""
        before, after = self.kept, self.newest
        if after.agreement < before.agreement - doubtful(self.highest, after.pairs):
            return (
                f"the agreement fell from {format_percent(before.agreement)} to {format_percent(after.agreement)} since"
            )
        rise = after.chosen_error / before.chosen_error - 1
        higher = f"{format_percent(rise)} higher since"
        return f"the agreement rose no further, and the error on the chosen pictures is {higher}"

    def harm(self, moment: Moment) -> tuple[float, int] | None:
        """By which share the error on the chosen pictures is above its lowest before `moment`, and at which step
        that was; None where it is not clearly, or where the agreement is low too and nothing was bought with it."""
        lowest, step = self.least
        if moment.agreement < _HIGH_AGREEMENT or lowest <= 0 or moment.chosen_error < _HARMFUL * lowest:
            return None
        return moment.chosen_error / lowest - 1, step

    def exhausted(self, patience: int) -> bool:
        """Whether so many moments in a row brought nothing that it is not worth going on; 0: never."""
        return 0 < patience <= self.stale


def doubtful(agreement: float, pairs: int) -> float:
    """The difference from `agreement` that says nothing: one standard error (of a share drawn towards a half, so that
    100 % has one too), and at least one pair; 0 before anything was measured."""
    if not math.isfinite(agreement):
        return 0.0
    share = (agreement * pairs + 1) / (pairs + 2)
    return max(math.sqrt(share * (1 - share) / (pairs + 2)), 1 / pairs) + 1e-9


def standing_of(events: Iterable[Event]) -> Standing:
    """The standing after all that a run measured and was a number."""
    standing = Standing()
    for event in events:
        if moment := moment_of(event):
            standing = standing.after(moment)
    return standing


def moment_of(event: Event) -> Moment | None:
    """What an `evaluation` event tells; None for any other, and where a number is missing or was not finite."""
    values = [event.get(name) for name in ("step", "agreement", "pairs", "chosen_error")]
    if event.get("event") != "evaluation" or not all(isinstance(one, (int, float)) for one in values):
        return None
    step, agreement, pairs, error = values
    return Moment(int(step), agreement, int(pairs), error) if pairs and math.isfinite(agreement + error) else None


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
    guard = "" if objective.loser_guard is not None else ", set `--loser-guard 0.6`"
    return f"Lower `{weight}` or `--learning-rate`{guard}, or take fewer `--steps`"

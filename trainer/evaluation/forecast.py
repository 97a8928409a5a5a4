"""What would more pairs bring? Agreements after trainings on fewer, continued, with how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..intervals import format_interval, wilson_interval

FEWEST_HELD_OUT = 20
"""Below it one pair more or less is five points: nothing can be read from such steps."""
_DRAWS = 4000
_NEARLY_NOTHING = 0.02


@dataclass(frozen=True)
class Measured:
    """A training on `pairs` pairs. agreeing: a sign for each held-out pair, in order, 1 where it agrees."""

    pairs: int
    agreeing: str

    @property
    def agreement(self) -> float:
        return self.agreeing.count("1") / len(self.agreeing)

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.agreeing.count("1"), len(self.agreeing))

    def __str__(self) -> str:
        return f"{self.pairs} pairs: {format_interval(self.agreement, *self.interval)}"


@dataclass(frozen=True)
class Forecast:
    """What twice as many pairs would add to the agreement: `gain`, with its 95 % interval, all as shares.

    says: "more" where it is sure to rise; "little" where it is sure to change by next to nothing; "perfect" where it
    agrees on every held-out pair already; "few" where too few are held out; "unlearned"
    where all the pairs do not lift it above tossing a coin yet; "open" where it cannot be told.
    """

    pairs: int
    held_out: int
    gain: float
    low: float
    high: float
    says: Literal["more", "little", "perfect", "few", "unlearned", "open"]

    def sentence(self) -> str:
        """For a person, without its full stop."""
        twice = f"twice as many pairs ({2 * self.pairs})"
        low, high = round(100 * self.low), round(100 * self.high)
        if self.says == "few":
            return (
                f"What more pairs would bring cannot be told from {self.held_out} held-out pairs: keep more aside "
                "(`--held-out`), or judge pairs of more prompts"
            )
        if self.says == "unlearned":
            return (
                f"Trained on all {self.pairs} pairs it does not agree with you more than tossing a coin would: what "
                "more pairs would bring cannot be told before it learns something from these"
            )
        if self.says == "perfect":
            return (
                f"It agrees on all {self.held_out} held-out pairs already: whether {twice} would make it surer still "
                "cannot be seen in them"
            )
        if self.says == "little":
            return f"More pairs of the same kind would hardly help: with {twice} expect {low:+d} to {high:+d} points"
        if self.says == "more":
            return f"With {twice} expect about {_points(round(100 * self.gain))} more ({max(0, low)}-{high})"
        return (
            f"Whether more pairs would help cannot be told from {self.held_out} held-out pairs: with {twice} the "
            f"agreement may change by anything from {low:+d} to {high:+d} points"
        )


def forecast(measured: Sequence[Measured]) -> Forecast:
    """Continue the course of the errors (1 - agreement) as a power of the number of pairs, to twice the largest.

    Test errors of learners fall so over wide ranges (Hestness et al. 2017, arXiv 1712.00409). The interval is of the
    held-out pairs alone, drawn anew with replacement, the same for every training (a paired bootstrap); each training
    is one draw of its seed, which is not in it. measured: at least two sizes, on the same held-out pairs.
    """
    measured = sorted(measured, key=lambda one: one.pairs)
    signs = np.array([[int(sign) for sign in one.agreeing] for one in measured])
    pairs, held_out = measured[-1].pairs, signs.shape[1]
    sizes = np.log([one.pairs for one in measured])
    rows = np.random.default_rng(0).integers(0, held_out, (_DRAWS, held_out))
    drawn = _gain(sizes, held_out - signs[:, rows].sum(axis=2).T, held_out)
    gain = float(_gain(sizes, held_out - signs.sum(axis=1)[None], held_out)[0])
    low, high = (float(end) for end in np.percentile(drawn, (2.5, 97.5)))
    says: Literal["more", "little", "perfect", "few", "unlearned", "open"] = "open"
    if held_out < FEWEST_HELD_OUT:
        says = "few"
    elif measured[-1].interval[0] <= 0.5:
        says = "unlearned"
    elif signs[-1].all():
        says = "perfect"
    elif low > -_NEARLY_NOTHING and high <= _NEARLY_NOTHING:
        says = "little"
    elif low >= 0:
        says = "more"
    return Forecast(pairs, held_out, gain, low, high, says)


def _gain(sizes: np.ndarray, misses: np.ndarray, held_out: int) -> np.ndarray:
    """By how much the error falls from the largest size to twice that. sizes: (n,) logarithms; misses: (draws, n)."""
    # Half a miss more, or an error of nothing would have no logarithm.
    errors = np.log((misses + 0.5) / (held_out + 1))
    apart = sizes - sizes.mean()
    slope = (errors @ apart) / (apart @ apart)
    at_largest = np.exp(errors.mean(axis=1) + slope * apart[-1])
    return at_largest - at_largest * 2**slope


def _points(number: int) -> str:
    return "1 point" if number == 1 else f"{number} points"

"""Is a LoRA better than what it was compared with? What blind answers add up to, and how sure that is."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..intervals import wilson_interval
from ..text import format_count, format_percent

FEW = 10
"""Answers below which nothing is said: so few can all fall on one side by chance, and a first impression sways."""

Outcome = Literal["win", "loss", "tie", "neither"]
"""Of one answer, for the LoRA. "neither" (both bad) says nothing about which is better."""


@dataclass(frozen=True)
class WinRate:
    """Answers to a comparison. share: of the LoRA, ties counting half; low, high: its 95 % interval."""

    wins: int
    losses: int
    ties: int
    neither: int
    share: float
    low: float
    high: float

    @property
    def answers(self) -> int:
        return self.wins + self.losses + self.ties + self.neither

    @property
    def verdict(self) -> Literal["better", "worse", "open"]:
        """Whether the interval lies on one side of one half."""
        if self.answers < FEW or self.low <= 0.5 <= self.high:
            return "open"
        return "better" if self.share > 0.5 else "worse"

    def sentence(self, other: str = "the base") -> str:
        """For a person, without its full stop. other: what the LoRA was compared with."""
        if not self.answers:
            return "nothing is judged yet"
        after = f"after {format_count(self.answers, 'answer')}"
        if self.answers < FEW:
            return f"too early to tell, {after}"
        if not self.wins + self.losses + self.ties:
            return f"no difference can be told: both were bad each time, {after}"
        between = f"{format_percent(self.share)}, between {100 * self.low:.0f} and {100 * self.high:.0f}, {after}"
        if self.verdict == "open":
            return f"no difference can be told yet: {between}"
        return f"{self.verdict} than {other}: {between}"


def win_rate(answers: Iterable[tuple[object, Outcome]]) -> WinRate:
    """Add up answers, each with its prompt.

    A tie counts half for each side. The interval is Wilson's over the answers that decided, moved towards one half by
    the share of ties as the estimate is: so both always fit together, and ties alone never make a difference.

    Pictures of one prompt, and answers to one pair, are alike, so ten of them say less than ten prompts would. The
    decided answers therefore count as n / d, where d, at least 1, is how much larger the variance of their share is by
    prompt than answer by answer (Kish's design effect). Where all decided alike that cannot be estimated, and each
    prompt counts once.
    """
    counted: dict[Outcome, int] = {"win": 0, "loss": 0, "tie": 0, "neither": 0}
    by_prompt: dict[object, list[int]] = defaultdict(list)
    for prompt, outcome in answers:
        counted[outcome] += 1
        if outcome in ("win", "loss"):
            by_prompt[prompt].append(outcome == "win")
    wins, losses, ties = counted["win"], counted["loss"], counted["tie"]
    decided = wins + losses
    voted = decided + ties
    if not voted:
        return WinRate(0, 0, 0, counted["neither"], 0.5, 0.0, 1.0)
    if not decided:
        # That no share but one half is possible would be too much to say of some ties.
        return WinRate(0, 0, ties, counted["neither"], 0.5, *wilson_interval(voted / 2, voted))
    low, high = _interval(by_prompt)
    share, low, high = (decided / voted * one + ties / voted / 2 for one in (wins / decided, low, high))
    return WinRate(wins, losses, ties, counted["neither"], share, low, high)


def _interval(by_prompt: dict[object, list[int]]) -> tuple[float, float]:
    """Of the share of ones, given by prompt; there is at least one."""
    answers = [one for those in by_prompt.values() for one in those]
    n, prompts = len(answers), len(by_prompt)
    share = sum(answers) / n
    if prompts == n:
        return wilson_interval(sum(answers), n)
    if share in (0.0, 1.0) or prompts == 1:
        effective = float(prompts)
    else:
        # The variance of a mean over clusters, as survey samples are analysed, against that of n single answers.
        sums = [sum(those) - share * len(those) for those in by_prompt.values()]
        by_cluster = prompts / (prompts - 1) * math.fsum(one * one for one in sums) / n**2
        effective = n / max(1.0, by_cluster / (share * (1 - share) / n))
    return wilson_interval(share * effective, effective)

"""Which trials make up the study, and which settings does each objective go into them with?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mapo_studio.benchmarks.study.arms import ARMS, SEARCH, Knobs
from mapo_studio.benchmarks.study.bases import OWN_SHARE
from mapo_studio.benchmarks.study.trial import Pace, Rung, Trial
from mapo_studio.benchmarks.study.worlds import World

Job = Trial | Rung | Pace
Line = dict[str, Any]


@dataclass
class Results:
    """Every line found so far."""

    by_key: dict[str, Line] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Results:
        results = cls()
        if file.exists():
            for line in file.read_text().splitlines():
                results.add(json.loads(line))
        return results

    def add(self, line: Line) -> None:
        self.by_key[line["key"]] = line

    def of(self, part: str) -> list[Line]:
        return [line for line in self.by_key.values() if line["part"] == part]


@dataclass(frozen=True)
class Plan:
    """parts: name -> the jobs of that part, given the results of those before it."""

    parts: Mapping[str, Callable[[Results], Iterator[Job]]]


STYLE = tuple(World("style", share) for share in (0.0, 0.05, 0.15, OWN_SHARE))
UNWANTED = tuple(World("unwanted", share) for share in (OWN_SHARE, 0.8))
SEARCHED = {"style": STYLE[1], "unwanted": UNWANTED[1]}
"""The rung on which each ladder's settings are searched for, on captions that the trials do not look at."""
SEEDS = (0, 1, 2)
FEWER_ARMS = ("sft", "dpo", "dpo+sft", "mapo calibrated")
"""Those that are also tried with other numbers of pairs and with noise."""


def best(results: Results, ladder: str, arm: str) -> tuple[float, Knobs]:
    """The setting of `arm` with the most pictures that show both taste and caption, then the smallest distance."""
    lines = [one for one in results.of("search") if one["world"]["ladder"] == ladder and one["arm"] == arm]
    best = max(lines, key=lambda one: (one["both"], -one["distance"]))
    return best["learning_rate"], best["knobs"]


def _rungs(_: Results) -> Iterator[Job]:
    for world in (*STYLE, *UNWANTED):
        yield Rung(world)


def _search(_: Results) -> Iterator[Job]:
    for world in SEARCHED.values():
        for arm, settings in SEARCH.items():
            for rate, knobs in settings:
                yield Trial(world, arm, rate, dict(knobs), seed=9, look="search")


def _claims(results: Results) -> Iterator[Job]:
    for seed in SEEDS:
        for world in (*STYLE, *UNWANTED):
            for arm in ARMS:
                rate, knobs = best(results, world.ladder, arm)
                yield Trial(world, arm, rate, dict(knobs), seed=seed)


def _amounts(results: Results) -> Iterator[Job]:
    for seed in SEEDS:
        for arm in FEWER_ARMS:
            rate, knobs = best(results, "style", arm)
            middle = Trial(SEARCHED["style"], arm, rate, dict(knobs), seed=seed)
            yield from (replace(middle, pairs=pairs) for pairs in (100, 1000))
            yield from (replace(middle, noise=noise) for noise in (0.1, 0.2))


def _pace(_: Results) -> Iterator[Job]:
    yield Pace(STYLE[-1])


MIDDLE = {
    "pairs": 300,
    "noise": 0.1,
    "learning_rate": 4e-3,
    "push": 8.0,
    "steepness": 1.0,
    "rank": 8,
    "steps": 48,
    "schedule": "cosine",
}
"""What the recipe's trials differ from in one or two things at a time; a tenth of its judgements are wrong."""


def _recipe(_: Results) -> Iterator[Job]:
    for pairs in (50, 100, 300, 1000):
        for rate in (1e-3, 2e-3, 4e-3, 8e-3):
            yield _around(pairs=pairs, learning_rate=rate)
        for steps in (24, 96, 192):
            yield _around(pairs=pairs, steps=steps)
    for push in (1.0, 4.0, 16.0, 64.0):
        for steepness in (0.25, 1.0, 4.0):
            yield _around(push=push, steepness=steepness)
    for rank in (2, 4, 16, 32):
        yield _around(rank=rank)
    for schedule in ("constant", "linear"):
        yield _around(schedule=schedule)


def _follow_up(_: Results) -> Iterator[Job]:
    """What the results made us look at: the new default on every rung, and the guard where the push is hard."""
    knobs = {name: MIDDLE[name] for name in ("push", "steepness")}
    for seed in SEEDS:
        for world in (*STYLE, *UNWANTED):
            yield Trial(world, "mapo default", MIDDLE["learning_rate"], knobs, seed=seed)
    for push in (16.0, 64.0):
        for guard in (0.6, 0.9):
            yield _around(push=push, guard=guard)


def _around(**other: Any) -> Trial:
    """The middle with something else in it; looked at on the search's captions, with a seed of its own."""
    setting = {**MIDDLE, **other}
    knobs = {name: setting.pop(name) for name in ("push", "steepness", "guard") if name in setting}
    return Trial(
        SEARCHED["style"],
        "mapo calibrated",
        setting.pop("learning_rate"),
        knobs,
        seed=10,
        look="recipe",
        **setting,
    )


FULL = Plan(
    {
        "rungs": _rungs,
        "search": _search,
        "claims": _claims,
        "recipe": _recipe,
        "pace": _pace,
        "amounts": _amounts,
        "follow-up": _follow_up,
    }
)


def _quick_world(ladder: str) -> World:
    return World(ladder, OWN_SHARE, per_caption=1)  # type: ignore[arg-type]


def _quick_rungs(_: Results) -> Iterator[Job]:
    yield Rung(_quick_world("style"))


def _quick_trials(_: Results) -> Iterator[Job]:
    for arm in ("sft", "dpo", "mapo calibrated"):
        rate, knobs = SEARCH[arm][-1]
        yield Trial(_quick_world("style"), arm, rate, dict(knobs), pairs=16, steps=4, look="search")


def _quick_pace(_: Results) -> Iterator[Job]:
    yield Pace(_quick_world("style"), rounds=2)


QUICK = Plan({"rungs": _quick_rungs, "search": _quick_trials, "pace": _quick_pace})

"""Which claims hold? Differences, slopes and their bootstrap intervals, from the study's lines alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from mapo_studio.benchmarks.study.plan import Line, Results

_RESAMPLES = 10_000
OURS = ("mapo paper", "mapo calibrated")


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % percentile bootstrap interval."""

    value: float
    low: float
    high: float

    def written(self, digits: int = 2) -> str:
        return f"{self.value:+.{digits}f} ({self.low:+.{digits}f} to {self.high:+.{digits}f})"


@dataclass(frozen=True)
class Verdict:
    """claim: as docs/evidence.md numbers them; held: None where the claim has no pass."""

    claim: str
    held: bool | None
    found: str


def verdicts(results: Results) -> list[Verdict]:
    """One for each claim and each form of MaPO that it is about."""
    found = []
    for arm in OURS:
        slope = lead_over_mismatch(results, arm)
        found.append(Verdict(f"1. lead over DPO grows with mismatch ({arm})", slope.low > 0, slope.written(1)))
    found.append(_errors(results))
    for arm in OURS:
        gain = difference(results, arm, "sft", "unwanted")
        found.append(Verdict(f"3. better than SFT, unwanted ({arm})", gain.low > 0, gain.written()))
    found += [_pace(results, arm) for arm in OURS]
    beside = difference(results, "mapo calibrated", "dpo+sft")
    found.append(Verdict("5. MaPO calibrated minus DPO + SFT, all rungs", None, beside.written()))
    return found


def gap_of(results: Results, world: dict) -> float:
    """The rung's measured mismatch: the base's error on chosen pictures minus that on its own samples."""
    return next(one["error_gap"] for one in results.of("rungs") if one["world"] == world)


def lead_over_mismatch(results: Results, arm: str) -> Interval:
    """Slope of both(arm) - both(dpo) over the rung's error gap on the style ladder, a unit of share per unit of error.

    Seeds are drawn again within each rung.
    """
    by_rung = [
        (gap_of(results, world), leads) for world, leads in _leads(results, arm, "dpo", "style") if len(leads) > 0
    ]
    gaps = np.array([gap for gap, _ in by_rung])

    def slope(means: np.ndarray) -> float:
        return float(np.polyfit(gaps, means, 1)[0])

    rng = np.random.default_rng(0)
    value = slope(np.array([np.mean(leads) for _, leads in by_rung]))
    drawn = [slope(np.array([rng.choice(leads, len(leads)).mean() for _, leads in by_rung])) for _ in range(_RESAMPLES)]
    return _interval(value, drawn)


def difference(
    results: Results, arm: str, other: str, ladder: str | None = None, measure: str = "both", part: str = "claims"
) -> Interval:
    """Mean of `arm` minus `other` over rungs and seeds; the differences are drawn again."""
    leads = np.concatenate([leads for _, leads in _leads(results, arm, other, ladder, measure, part)])
    rng = np.random.default_rng(0)
    drawn = [rng.choice(leads, len(leads)).mean() for _ in range(_RESAMPLES)]
    return _interval(float(leads.mean()), drawn)


def _leads(
    results: Results, arm: str, other: str, ladder: str | None, measure: str = "both", part: str = "claims"
) -> list[tuple[dict, np.ndarray]]:
    """For each rung the differences between two arms, seed by seed."""
    lines = [one for one in results.of(part) if ladder in (None, one["world"]["ladder"])]
    worlds: list[dict] = []
    for line in lines:
        if line["world"] not in worlds:
            worlds.append(line["world"])

    def setting(line: Line) -> tuple:
        return line["seed"], line["pairs"], line["noise"]

    found = []
    for world in worlds:
        here = [one for one in lines if one["world"] == world]
        ours = {setting(one): one[measure] for one in here if one["arm"] == arm}
        theirs = {setting(one): one[measure] for one in here if one["arm"] == other}
        common = [each for each in ours if each in theirs]
        found.append((world, np.array([ours[each] - theirs[each] for each in common])))
    return found


def _errors(results: Results) -> Verdict:
    """Claim 2, rung by rung."""
    failed = []
    lines = [one for one in results.of("claims") if one["world"]["ladder"] == "style"]
    for share in sorted({one["world"]["share"] for one in lines}):
        for arm in (*OURS, "margin alone"):
            here = [one for one in lines if one["world"]["share"] == share and one["arm"] == arm]
            chosen = np.mean([one["chosen_error"] - one["chosen_error_before"] for one in here])
            gap = np.mean([one["rejected_error"] - one["chosen_error"] for one in here])
            before = np.mean([one["rejected_error_before"] - one["chosen_error_before"] for one in here])
            if (chosen > 0) if arm == "margin alone" else (chosen < 0 and gap > before):
                continue
            failed.append(f"{arm} at {share:.0%} (chosen {chosen:+.4f}, gap {gap - before:+.4f})")
    name = "2. chosen error falls while the margin rises; not so with the margin alone"
    return Verdict(name, not failed, "on every rung" if not failed else "not for " + ", ".join(failed))


def _pace(results: Results, arm: str) -> Verdict:
    seconds = next(iter(results.of("pace")))["seconds"]
    ours, dpo = np.array(seconds[arm]), np.array(seconds["dpo"])
    shorter = float((ours < dpo).mean())
    ratio = float(np.median(ours) / np.median(dpo))
    held = ratio < 1 and shorter >= 0.9
    said = f"{ratio:.2f} of DPO's in the median, shorter in {shorter:.0%} of {len(ours)} turns"
    return Verdict(f"4. a step takes less time than DPO's ({arm})", held, said)


def _interval(value: float, drawn: Sequence[float]) -> Interval:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def spread_of(lines: Sequence[Line], measure: str | Callable[[Line], float]) -> tuple[float, float, float]:
    """Mean, least and most of a measure over trials that differ in their seed alone."""
    values = [measure(one) if callable(measure) else one[measure] for one in lines]
    return float(np.mean(values)), float(min(values)), float(max(values))

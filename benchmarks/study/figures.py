"""Draw the study's figures and fill its tables into the documents.

python -m benchmarks.study.figures [--results docs/evidence/results.jsonl] [--docs docs]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
from mapo_studio.benchmarks.study.arms import ARMS
from mapo_studio.benchmarks.study.plan import FEWER_ARMS, SEARCHED, Results
from mapo_studio.benchmarks.study.tables import recipe_map, write_tables
from mapo_studio.benchmarks.study.verdicts import gap_of
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_ROOT = Path(__file__).parents[2]
_COLOURS = dict(zip(ARMS, ("#8a8f98", "#c2410c", "#f59e0b", "#7c3aed", "#0ea5e9", "#111827", "#16a34a"), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=_ROOT / "docs" / "evidence" / "results.jsonl")
    parser.add_argument("--docs", type=Path, default=_ROOT / "docs", help="folder of evidence.md and recipe.md")
    asked = parser.parse_args()
    results = Results.read(asked.results)
    folder = asked.docs / "evidence"
    folder.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "mapo"})
    for name, figure in (
        ("mismatch", _mismatch(results)),
        ("ladders", _ladders(results)),
        ("errors", _errors(results)),
        ("amounts", _amounts(results)),
        ("recipe", _recipe(results)),
    ):
        # Without a date the same results give the same file.
        figure.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
    write_tables(results, asked.docs / "evidence.md", asked.docs / "recipe.md")


def _mismatch(results: Results) -> Figure:
    """Claim 1: a dot a trial, and the line through the rungs."""
    figure, axes = plt.subplots(figsize=(7, 4))
    lines = [one for one in results.of("claims") if one["world"]["ladder"] == "style"]
    dpo = {(one["world"]["share"], one["seed"]): one["both"] for one in lines if one["arm"] == "dpo"}
    for place, arm in enumerate(("mapo paper", "mapo calibrated", "dpo+sft")):
        here = [one for one in lines if one["arm"] == arm]
        x = np.array([gap_of(results, one["world"]) for one in here])
        y = np.array([one["both"] - dpo[one["world"]["share"], one["seed"]] for one in here])
        aside = (place - 1) * 0.004 * (x.max() - x.min())
        axes.plot(x + aside, y, "o", color=_COLOURS[arm], alpha=0.6, label=arm)
        ends = np.array([x.min(), x.max()])
        axes.plot(ends, np.polyval(np.polyfit(x, y, 1), ends), color=_COLOURS[arm])
    axes.axhline(0, color="#999", linewidth=0.8)
    axes.set_xlabel("mismatch: the base's error on chosen pictures minus that on its own samples")
    axes.set_ylabel("lead over DPO\n(share of pictures right in both)")
    axes.legend(frameon=False)
    return figure


def _ladders(results: Results) -> Figure:
    """What every objective reached on every rung: a dot a seed, a bar at their mean."""
    figure, all_axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, width_ratios=(2, 1))
    for axes, ladder in zip(all_axes, SEARCHED, strict=True):
        lines = [one for one in results.of("claims") if one["world"]["ladder"] == ladder]
        shares = sorted({one["world"]["share"] for one in lines})
        _dots(axes, [[one for one in lines if one["world"]["share"] == share] for share in shares], ARMS)
        axes.set_xticks(range(len(shares)), [f"{share:.0%}" for share in shares])
        axes.set_xlabel("outlined pictures in the base's training")
        axes.set_title({"style": "chosen: outlined", "unwanted": "chosen: not outlined"}[ladder])
    all_axes[0].set_ylabel("taste and caption right")
    all_axes[1].legend(frameon=False, bbox_to_anchor=(1, 1))
    return figure


def _dots(axes: Axes, groups: Iterable[list[dict]], arms: Iterable[str]) -> None:
    arms = tuple(arms)
    for place, group in enumerate(groups):
        for number, arm in enumerate(arms):
            values = [one["both"] for one in group if one["arm"] == arm]
            at = place + (number - (len(arms) - 1) / 2) * 0.8 / len(arms)
            label = arm if place == 0 else None
            axes.plot([at] * len(values), values, "o", color=_COLOURS[arm], alpha=0.5, markersize=4)
            axes.plot([at - 0.05, at + 0.05], [np.mean(values)] * 2, color=_COLOURS[arm], linewidth=3, label=label)
    axes.set_ylim(-0.03, 1.03)


def _errors(results: Results) -> Figure:
    """Claim 2: where the two errors went, relative to the untouched base."""
    figure, axes = plt.subplots(figsize=(6, 5))
    for arm in ARMS:
        here = [one for one in results.of("claims") if one["arm"] == arm and one["world"]["ladder"] == "style"]
        x = [one["chosen_error"] / one["chosen_error_before"] for one in here]
        y = [one["rejected_error"] / one["rejected_error_before"] for one in here]
        axes.plot(x, y, "o", color=_COLOURS[arm], alpha=0.6, label=arm)
    axes.axvline(1, color="#999", linewidth=0.8)
    axes.axhline(1, color="#999", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("error on held-out chosen pictures, times the base's")
    axes.set_ylabel("error on held-out rejected pictures, times the base's")
    axes.legend(frameon=False)
    return figure


def _amounts(results: Results) -> Figure:
    figure, all_axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
    lines = results.of("amounts")
    middle = [one for one in results.of("claims") if one["world"] == lines[0]["world"]]
    everything = [*lines, *middle]
    by_pairs = [[one for one in everything if one["pairs"] == n and one["noise"] == 0] for n in (100, 300, 1000)]
    by_noise = [[one for one in everything if one["pairs"] == 300 and one["noise"] == n] for n in (0, 0.1, 0.2)]
    for axes, groups, names, said in (
        (all_axes[0], by_pairs, ("100", "300", "1000"), "pairs, none wrong"),
        (all_axes[1], by_noise, ("0 %", "10 %", "20 %"), "wrong judgements, of 300"),
    ):
        _dots(axes, groups, FEWER_ARMS)
        axes.set_xticks(range(len(names)), names)
        axes.set_xlabel(said)
    all_axes[0].set_ylabel("taste and caption right")
    all_axes[1].legend(frameon=False, bbox_to_anchor=(1, 1))
    return figure


def _recipe(results: Results) -> Figure:
    figure, all_axes = plt.subplots(1, 3, figsize=(12, 3.6))
    for axes, (down, across) in zip(
        all_axes, (("pairs", "learning_rate"), ("pairs", "steps"), ("push", "steepness")), strict=True
    ):
        rows, columns, cells = recipe_map(results, down, across)
        values = np.array([[cell["both"] if cell else np.nan for cell in line] for line in cells])
        axes.imshow(values, cmap="Greens", vmin=0, vmax=1, aspect="auto")
        for y, x in np.argwhere(~np.isnan(values)):
            dark = values[y, x] > 0.6
            axes.text(x, y, f"{values[y, x]:.0%}", ha="center", va="center", color="white" if dark else "black")
        axes.set_xticks(range(len(columns)), [f"{one:g}" for one in columns])
        axes.set_yticks(range(len(rows)), [f"{one:g}" for one in rows])
        axes.set_xlabel(across.replace("_", " "))
        axes.set_ylabel(down)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    main()

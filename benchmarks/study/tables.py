"""How do the study's numbers read? Markdown tables, written between marks in docs/evidence.md and docs/recipe.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mapo_studio.benchmarks.study.arms import ARMS, SEARCH
from mapo_studio.benchmarks.study.plan import FEWER_ARMS, MIDDLE, SEARCHED, Line, Results, best
from mapo_studio.benchmarks.study.verdicts import spread_of, verdicts

Row = Sequence[object]


def write_tables(results: Results, *documents: Path) -> None:
    """Fill every `<!-- table: NAME -->` ... `<!-- end -->` of the documents that the results have something for."""
    made = {name: make(results) for name, make in TABLES.items()}
    for document in documents:
        text = document.read_text(encoding="utf-8")
        for name, table in made.items():
            pattern = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"
            text = re.sub(pattern, lambda found, t=table: f"{found[1]}\n{t}\n{found[2]}", text, flags=re.DOTALL)
        document.write_text(text, encoding="utf-8")


def _markdown(head: Row, rows: Iterable[Row]) -> str:
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def _verdicts(results: Results) -> str:
    words = {True: "holds", False: "**failed**", None: "reported"}
    return _markdown(
        ("claim", "verdict", "found"), ((one.claim, words[one.held], one.found) for one in verdicts(results))
    )


def _rungs(results: Results) -> str:
    head = ("ladder", "outlined in training", "error gap", "feature distance", "shows the taste before", "caption")
    rows = (
        (
            line["world"]["ladder"],
            f"{line['world']['share']:.0%}",
            f"{line['error_gap']:+.4f}",
            f"{line['feature_distance']:.2f}",
            f"{line['preferred']:.0%}",
            f"{line['caption']:.0%}",
        )
        for line in _by_rung(results.of("rungs"))
    )
    return _markdown(head, rows)


def _search(results: Results) -> str:
    """Every setting that was tried, with what it gave, the chosen one in bold."""
    rows = []
    for ladder in SEARCHED:
        for arm, settings in SEARCH.items():
            chosen = best(results, ladder, arm)
            cells = []
            for rate, knobs in settings:
                line = next(
                    one
                    for one in results.of("search")
                    if one["world"]["ladder"] == ladder
                    and one["arm"] == arm
                    and (one["learning_rate"], one["knobs"]) == (rate, dict(knobs))
                )
                said = ", ".join([f"{rate:g}", *(f"{name} {value:g}" for name, value in knobs.items())])
                cell = f"{said}: {line['both']:.0%}"
                cells.append(f"**{cell}**" if (rate, dict(knobs)) == (chosen[0], dict(chosen[1])) else cell)
            rows.append((ladder, arm, *cells))
    return _markdown(("ladder", "objective", "setting 1", "setting 2", "setting 3", "setting 4"), rows)


def _claims(results: Results) -> str:
    """`both` on every rung: the mean of three seeds, least and most."""
    lines = results.of("claims")
    worlds = list({(one["world"]["ladder"], one["world"]["share"]): None for one in _by_rung(lines)})
    rows = []
    for arm in ARMS:
        cells = []
        for world in worlds:
            here = [one for one in lines if _rung(one) == world and one["arm"] == arm]
            cells.append("{:.0%} ({:.0%} to {:.0%})".format(*spread_of(here, "both")))
        rows.append((arm, *cells))
    return _markdown(("objective", *(f"{ladder} {share:.0%}" for ladder, share in worlds)), rows)


def _measures(results: Results) -> str:
    """Every other measure, as means over all rungs and seeds of a ladder."""
    names = (
        "preferred",
        "caption",
        "diversity",
        "distance",
        "clipped",
        "chosen_error",
        "rejected_error",
        "agreement",
        "gained",
    )
    rows = []
    for ladder in SEARCHED:
        for arm in ARMS:
            here = [one for one in results.of("claims") if one["world"]["ladder"] == ladder and one["arm"] == arm]
            rows.append((ladder, arm, *(f"{np.mean([one[name] for one in here]):.3g}" for name in names)))
    return _markdown(("ladder", "objective", *(name.replace("_", " ") for name in names)), rows)


def _default(results: Results) -> str:
    """The new default on every rung, beside the settings that the search had found."""
    lines = [*results.of("claims"), *(one for one in results.of("follow-up") if one["arm"] == "mapo default")]
    worlds = list({_rung(one): None for one in _by_rung(lines)})
    rows = []
    for arm in ("mapo default", "mapo calibrated", "mapo released", "mapo paper", "dpo+sft"):
        here = [one for one in lines if one["arm"] == arm]
        cells = [
            "{:.0%} ({:.0%} to {:.0%})".format(*spread_of([o for o in here if _rung(o) == w], "both")) for w in worlds
        ]
        rise = np.mean([one["chosen_error"] / one["chosen_error_before"] - 1 for one in here])
        rows.append((arm, *cells, f"{np.mean([one['both'] for one in here]):.0%}", f"{rise:+.0%}"))
    head = ("objective", *(f"{ladder} {share:.0%}" for ladder, share in worlds), "all", "chosen error")
    return _markdown(head, rows)


def _guards(results: Results) -> str:
    rows = []
    for push in (16.0, 64.0):
        plain = [one for one in results.of("recipe") if _fits(one, {"push"}) and one["knobs"]["push"] == push]
        guarded = [
            one for one in results.of("follow-up") if one["knobs"].get("push") == push and "guard" in one["knobs"]
        ]
        rows += [
            (f"{push:g}", line["knobs"].get("guard", "none"), _cell(line), f"{line['caption']:.0%}")
            for line in (*plain, *sorted(guarded, key=lambda one: one["knobs"]["guard"]))
        ]
    return _markdown(("push", "safeguard", "taste and caption (chosen error)", "caption"), rows)


def _amounts(results: Results) -> str:
    """Other numbers of pairs, and judgements turned round, beside the trials of the claims on the same rung."""
    lines = [*results.of("amounts"), *(one for one in results.of("claims") if one["world"] == _middle(results))]
    columns = [(100, 0.0), (300, 0.0), (1000, 0.0), (300, 0.1), (300, 0.2)]
    rows = []
    for arm in FEWER_ARMS:
        cells = []
        for pairs, noise in columns:
            here = [one for one in lines if (one["arm"], one["pairs"], one["noise"]) == (arm, pairs, noise)]
            cells.append("{:.0%} ({:.0%} to {:.0%})".format(*spread_of(here, "both")))
        rows.append((arm, *cells))
    head = [f"{pairs} pairs" + (f", {noise:.0%} wrong" if noise else "") for pairs, noise in columns]
    return _markdown(("objective", *head), rows)


def _pace(results: Results) -> str:
    seconds = results.of("pace")[0]["seconds"]
    dpo = float(np.median(seconds["dpo"]))
    rows = (
        (
            arm,
            f"{np.median(taken) * 1000:.0f} ms",
            f"{min(taken) * 1000:.0f} to {max(taken) * 1000:.0f}",
            f"{np.median(taken) / dpo:.2f}",
        )
        for arm, taken in seconds.items()
    )
    return _markdown(("objective", "a step of 4 pairs, median", "least to most", "of DPO's"), rows)


def recipe_map(results: Results, down: str, across: str) -> tuple[list, list, list[list[Line | None]]]:
    """The recipe's trials in which nothing but `down` and `across` differs from its middle.

    Returns the values down, the values across, and a line of results for each two of them where it was tried.
    """
    lines = [one for one in results.of("recipe") if _fits(one, {down, across})]
    rows, columns = (sorted({_setting(one, name) for one in lines}) for name in (down, across))
    found = {(_setting(one, down), _setting(one, across)): one for one in lines}
    return rows, columns, [[found.get((row, column)) for column in columns] for row in rows]


def _recipe(down: str, across: str) -> Callable[[Results], str]:
    def table(results: Results) -> str:
        rows, columns, cells = recipe_map(results, down, across)
        head = (f"{down.replace('_', ' ')} \\\\ {across.replace('_', ' ')}", *(f"{one:g}" for one in columns))
        return _markdown(head, ((f"{row:g}", *map(_cell, line)) for row, line in zip(rows, cells, strict=True)))

    return table


def _alone(name: str) -> Callable[[Results], str]:
    def table(results: Results) -> str:
        lines = sorted((one for one in results.of("recipe") if _fits(one, {name})), key=lambda one: _setting(one, name))
        return _markdown((name, *(str(_setting(one, name)) for one in lines)), [("", *map(_cell, lines))])

    return table


def _cell(line: Line | None) -> str:
    """Taste and caption at once; and how much the chosen error changed."""
    if line is None:
        return ""
    return f"{line['both']:.0%} ({line['chosen_error'] / line['chosen_error_before'] - 1:+.0%})"


def _fits(line: Line, free: set[str]) -> bool:
    return all(_setting(line, name) == value for name, value in MIDDLE.items() if name not in free)


def _setting(line: Line, name: str) -> Any:
    return line["knobs"][name] if name in ("push", "steepness") else line[name]


def _middle(results: Results) -> dict:
    return results.of("amounts")[0]["world"]


def _rung(line: Line) -> tuple[str, float]:
    return line["world"]["ladder"], line["world"]["share"]


def _by_rung(lines: Iterable[Line]) -> list[Line]:
    return sorted(lines, key=_rung)


TABLES = {
    "verdicts": _verdicts,
    "rungs": _rungs,
    "search": _search,
    "claims": _claims,
    "measures": _measures,
    "amounts": _amounts,
    "default": _default,
    "guards": _guards,
    "pace": _pace,
    "recipe rates": _recipe("pairs", "learning_rate"),
    "recipe steps": _recipe("pairs", "steps"),
    "recipe knobs": _recipe("push", "steepness"),
    "recipe rank": _alone("rank"),
    "recipe schedule": _alone("schedule"),
}

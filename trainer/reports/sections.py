"""Report sections: its data and time, what scorers say, and whether more pairs would help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..evaluation.learning_curve import LearningCurve, read_curve
from ..evaluation.scorers.score import Scores, read_scores
from ..intervals import wilson_interval
from ..runs.run_folder import Run
from ..text import finite_number, format_duration, format_interval
from .charts import Chart, Line
from .html import Html, chart_card, element, escape_text, facts, paragraph, section, table
from .summary import Summary


def data_section(summary: Summary) -> Html:
    left_out = [one for one in summary.started.get("left_out") or () if isinstance(one, dict)]
    rows = [
        ("Left out because", "Pairs", "For example"),
        *((one.get("reason"), one.get("count"), ", ".join(map(str, one.get("examples") or ()))) for one in left_out),
    ]
    return section(
        "Data and time",
        element(
            "div",
            element("div", element("h3", escape_text("Pairs")), _pairs(summary, left_out), kind="card"),
            element("div", element("h3", escape_text("Machine")), _machine(summary), kind="card"),
            kind="columns",
        ),
        _judging(summary),
        table(rows) if left_out else Html(""),
    )


def _pairs(summary: Summary, left_out: Sequence[dict[str, Any]]) -> Html:
    started = summary.started
    if not started:
        return paragraph("The run did not come as far as reading its pairs.", "empty")
    rows: list[tuple[str, object]] = [
        ("From", summary.config.data.pairs),
        ("Trained on", _count(started, "pairs")),
        ("Kept aside to measure", _count(started, "held_out")),
        ("Left out", f"{sum(int(finite_number(one, 'count') or 0) for one in left_out)}"),
    ]
    if finite_number(started, "assumed"):
        rows.append(("Assumed, not judged", f"{_count(started, 'assumed')}: the rejected picture was painted for it"))
    if finite_number(started, "rankings"):
        rows.append(("Rankings among them", _count(started, "rankings")))
    upscaled = started.get("upscaled")
    if isinstance(upscaled, list) and upscaled:
        rows.append(("Pictures enlarged", f"{len(upscaled)} (too small: " + ", ".join(map(str, upscaled[:3])) + ")"))
    if per_epoch := finite_number(started, "batches_per_epoch"):
        shown = summary.step * summary.config.training.accumulation / per_epoch
        rows.append(("Each pair was shown", f"{shown:.1f} times"))
    rows.append(("Encoded", f"{_count(started, 'encoded')} pictures and captions, {_count(started, 'reused')} reused"))
    return facts(rows)


def _judging(summary: Summary) -> Html:
    """How the judging went that the training rests on; nothing for a run of an older version."""
    data = summary.started.get("data")
    if not isinstance(data, dict):
        return Html("")
    rows: list[tuple[str, object]] = [
        ("Prompts", f"{_count(data, 'prompts')} trained on, {_count(data, 'held_out_prompts')} kept aside"),
        ("Pairs of one prompt", f"{_count(data, 'most_of_a_prompt')} at most"),
        ("Contested", f"{_count(data, 'contested')} pairs whose judgements do not all fall on one side"),
    ]
    if finite_number(data, "weighted"):
        rows.append(("Weighted", f"{_count(data, 'weighted')} pairs count more or less than the others"))
    answers, strengths = data.get("judgements"), data.get("strengths")
    if isinstance(answers, dict) and answers:
        names = {"one side": "for one picture", "tie": "ties", "both_bad": "both bad", "skip": "skipped"}
        counts = [f"{_count(answers, kind)} {name}" for kind, name in names.items() if finite_number(answers, kind)]
        rows.append(("Judgements", ", ".join(counts)))
    if isinstance(strengths, dict) and strengths:
        rows.append(("How clearly", ", ".join(f"{_count(strengths, one)} {one}" for one in strengths)))
    if finite_number(data, "judges"):
        rows.append(
            ("Judged by", "one person" if finite_number(data, "judges") == 1 else f"{_count(data, 'judges')} people")
        )
    notes = []
    if repeated := int(finite_number(data, "repeated") or 0):
        alike = int(finite_number(data, "repeated_alike") or 0)
        share = format_interval(alike / repeated, *wilson_interval(alike, repeated))
        rows.append(("Shown again", f"{repeated} pairs, answered alike: {share}"))
        notes.append(
            paragraph(
                "No model can agree with you more often than you agree with yourself on pairs shown again.", "soft"
            )
        )
    return element("div", element("h3", escape_text("Judging")), facts(rows), *notes, kind="card judging")


def _machine(summary: Summary) -> Html:
    started, seconds = summary.started, summary.seconds_a_step
    rows: list[tuple[str, object]] = []
    if started:
        rows += [("Device", started.get("device", "?")), ("Arithmetic", started.get("precision", "?"))]
    if seconds is not None:
        rows += [("One step", _seconds(seconds)), ("All steps", format_duration(summary.seconds))]
    if not rows:
        return paragraph("Nothing was computed yet.", "empty")
    return facts(rows)


def _count(event: dict[str, Any], name: str) -> str:
    value = finite_number(event, name)
    return "?" if value is None else f"{value:.0f}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else format_duration(seconds)


def evidence_sections(run: Run) -> list[Html]:
    """A section for each of the two that was measured."""
    curve, scores = read_curve(run), read_scores(run)
    return [*([_more_pairs(curve)] if curve else []), *([_scores(scores)] if scores else [])]


def learning_chart(curve: LearningCurve) -> Chart:
    """Agreement against the number of pairs, and where its course leads where that can be told."""
    points = [(one.pairs, one.agreement) for one in curve.measured]
    lines = [Line("measured", points)]
    band = [(one.pairs, *one.interval) for one in curve.measured]
    ahead = curve.forecast()
    if ahead.says in ("more", "little"):
        pairs, share = points[-1]
        low, high = (min(max(share + by, 0.0), 1.0) for by in (ahead.low, ahead.high))
        lines.append(Line("expected", [points[-1], (2 * pairs, min(share + ahead.gain, 1.0))], "three"))
        band.append((2 * pairs, min(low, band[-1][1]), max(high, band[-1][2])))
    return Chart(
        title="Agreement by number of pairs",
        good="On the same pairs kept aside. Still rising at the right end: more pairs help. Flat: they would not.",
        lines=lines,
        band=band,
        guide=(0.5, "tossing a coin"),
        share=True,
        along="pairs",
    )


def _more_pairs(curve: LearningCurve) -> Html:
    words = element("div", *(paragraph(one) for one in curve.sentences()))
    chart = chart_card(learning_chart(curve), curve.measured[-1].pairs)
    return section("How many more pairs?", element("div", words, chart, kind="columns"))


def _scores(scores: Scores) -> Html:
    rows = [("Scorer", "Base", "With the LoRA", "Difference", "LoRA scored higher")]
    rows += [
        (one.scorer, one.shown(one.before), one.shown(one.after), one.difference, one.share) for one in scores.rows
    ]
    return section(
        "What scorers say",
        *((paragraph(scores.sentence(), "soft"), table(rows)) if scores.rows else ()),
        *(paragraph(f"{one}.", "note") for one in scores.absent),
    )

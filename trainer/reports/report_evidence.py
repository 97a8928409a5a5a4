"""What does a report say of what was asked after the training: would more pairs help, and what do scorers say?"""

from __future__ import annotations

from ..evaluation.learning_curve import LearningCurve, read_curve
from ..evaluation.scorers.report_scores import Scores, read_scores
from ..runs.run_folder import Run
from .charts import Chart, Line
from .html import Html, chart_card, element, paragraph, section, table


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

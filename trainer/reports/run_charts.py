"""Run charts: which curves tell how a run goes, and what does a good one look like?"""

from __future__ import annotations

from .charts import Chart, Line
from .summary import Summary, course


def agreement(summary: Summary) -> Chart:
    """Agreement on pairs kept aside, with its interval."""
    return Chart(
        title="Agreement with you",
        good="On pairs kept aside. Good: it rises and stays. Half is what tossing a coin gives; the pale band is how "
        "exactly so many pairs can tell.",
        lines=[Line("agreement", course(summary.evaluations, "agreement"))],
        band=course(summary.evaluations, "low", "high"),
        guide=(0.5, "tossing a coin"),
        share=True,
    )


def errors(summary: Summary) -> Chart:
    """Of the two pictures, on pairs kept aside where that was measured twice."""
    held_out = len(course(summary.evaluations, "chosen_error")) > 1
    events = summary.evaluations if held_out else summary.step_events
    return Chart(
        title="Errors" + (", pairs kept aside" if held_out else ", training pairs"),
        good="How far off the model is when it paints the two pictures. Good: that of your choices falls or stays, "
        "the other ends above it. Bad: both rise.",
        lines=[
            Line("pictures you chose", course(events, "chosen_error"), "one", rough=not held_out),
            Line("pictures you rejected", course(events, "rejected_error"), "two", rough=not held_out),
        ],
    )


def margin(summary: Summary) -> Chart:
    """How clearly the images of a pair are separated."""
    held_out = len(course(summary.evaluations, "margin")) > 1
    return Chart(
        title="Margin" + (", pairs kept aside" if held_out else ", training pairs"),
        good="How clearly the two pictures of a pair are told apart. Good: it climbs above zero, then levels off.",
        lines=[
            Line(
                "margin", course(summary.evaluations if held_out else summary.step_events, "margin"), rough=not held_out
            ),
        ],
        guide=(0.0, "no preference"),
    )


def loss(summary: Summary) -> Chart:
    """Of the training pairs."""
    return Chart(
        title="Loss",
        good="What the training makes smaller. Good: it falls a little, however unevenly; its height means nothing.",
        lines=[Line("loss", course(summary.step_events, "loss"), "three", rough=True)],
    )


def learning_rate(summary: Summary) -> Chart:
    """As it was set."""
    return Chart(
        title="Learning rate",
        good="How large the steps are, as set. Good: just this shape, without a jump where a run was resumed.",
        lines=[Line("learning rate", course(summary.step_events, "learning_rate"), "three")],
        from_zero=True,
    )

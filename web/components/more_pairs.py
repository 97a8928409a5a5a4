"""How does the page ask whether more pairs would help, and show what came of it?"""

from __future__ import annotations

from contextlib import suppress
from html import escape

from ...trainer.errors import UserError
from ...trainer.evaluation.learning_curve import read_curve
from ...trainer.jobs.tasks import Status, Task, all_tasks, start
from ...trainer.reports.charts import draw
from ...trainer.reports.html import text as words
from ...trainer.reports.report_evidence import learning_chart
from ...trainer.runs.run_folder import Run
from .task_view import task_html


def ask_for_more(run: Run) -> None:
    """Begin the trainings on parts of the run's pairs, or go on with them. Raises UserError where there are too few."""
    task = _task(run)
    if task is not None and task.status().can_go_on:
        task.go_on()
    elif task is None or not task.status().is_open:
        start(run.workspace, "curve", {"run": run.name})


def is_asked(run: Run) -> bool:
    """Whether it is being found out now."""
    status = curve_status(run)
    return status is not None and status.is_open


def curve_status(run: Run) -> Status | None:
    """How the newest task stands that finds it out for this run."""
    task = _task(run)
    return task.status() if task else None


def more_pairs_html(run: Run) -> str:
    """The task while it goes on, then the chart and what it means."""
    status = curve_status(run)
    shown = task_html(status) if status and status.phase != "finished" else ""
    curve = read_curve(run)
    if curve is None:
        return shown
    sentences = "".join(f"<p>{words(one)}</p>" for one in curve.sentences())
    chart = learning_chart(curve)
    drawn = draw(chart, curve.measured[-1].pairs)
    return (
        f'{shown}<div class="curves more-pairs"><div class="curve" title="{escape(chart.good, quote=True)}">'
        f"<h4>{escape(chart.title)}</h4>{drawn}</div><div>{sentences}</div></div>"
    )


def _task(run: Run) -> Task | None:
    for task in all_tasks(run.workspace):
        if task.kind == "curve":
            with suppress(UserError):  # a damaged folder must not take the others with it
                if task.settings().get("run") == run.name:
                    return task
    return None

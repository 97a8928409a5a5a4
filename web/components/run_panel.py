"""Run panel: progress, agreement, images, curves and buttons of one run, and whether more pairs would help.

All of it is HTML in which everything is escaped.
"""

from __future__ import annotations

from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ...trainer.errors import UserError
from ...trainer.evaluation.learning_curve import read_curve
from ...trainer.jobs.job import Job, Status, all_jobs
from ...trainer.reports import run_charts
from ...trainer.reports.chart_svg import draw_svg
from ...trainer.reports.charts import Chart
from ...trainer.reports.html import escape_text
from ...trainer.reports.sections import learning_chart
from ...trainer.reports.summary import Summary, course, headline, summarize_run
from ...trainer.reports.summary import measured as newest
from ...trainer.runs.run_folder import Event, Run
from ...trainer.services.job_kinds import start
from ...trainer.services.run_progress import run_progress
from ...trainer.text import finite_number, format_duration, format_interval, format_percent
from ..server.preferences_file import Settings
from ..server.run_files import address
from .generate_task import task_html
from .model_choices import copy_label

PHASES = {
    "waiting": "waiting",
    "running": "running",
    "finished": "finished",
    "stopped": "stopped",
    "failed": "failed",
    "crashed": "ended unexpectedly",
}
_LOG_LINES = 200
_NOTHING = (
    '<p class="quiet">Nothing was trained yet. Judge some pairs, then press Train: everything is chosen already, and '
    "what is learned shows here.</p>"
)


class RunPanel:
    """Built where Gradio is now. `outputs` are what `shown` gives values for, in its order."""

    def __init__(self) -> None:
        with gr.Row(elem_classes="run-head"):
            with gr.Column(scale=4, min_width=280):
                self._progress = gr.HTML(_NOTHING)
                self._agreement = gr.HTML("", visible=False)
            with gr.Column(scale=1, min_width=150):
                self.stop = gr.Button("Stop and keep", visible=False, size="sm")
                self.resume = gr.Button("Resume", visible=False, size="sm")
                self.more = gr.Button("Would more pairs help?", visible=False, size="sm")
                self.copy = gr.Button("Copy to ComfyUI / A1111", visible=False, size="sm")
                self._links = gr.HTML("", elem_classes="run-links")
        self._strip = gr.HTML("", visible=False)
        self._curves = gr.HTML("", visible=False)
        self._more = gr.HTML("", visible=False)
        with gr.Accordion("Log", open=False, visible=False) as self._has_log:
            self._log = gr.HTML("")
        self.outputs = [
            self._progress,
            self._agreement,
            self.stop,
            self.resume,
            self.more,
            self.copy,
            self._links,
            self._strip,
            self._curves,
            self._more,
            self._log,
            self._has_log,
        ]

    @staticmethod
    def stamp(run: Run | None) -> tuple[Any, ...] | None:
        """What changes whenever something else is to be shown; cheap."""
        if run is None:
            return None
        sizes = [file.stat().st_size if file.exists() else 0 for file in (run.events_file, run.folder / "log.txt")]
        return run.name, *sizes, Job(run.folder).status().phase, run.lora_file.exists(), curve_status(run)

    @staticmethod
    def shown(run: Run | None, settings: Settings) -> list[Any]:
        """The values of `outputs`."""
        hidden = [gr.Button(visible=False)] * 4
        if run is None:
            nothing = [_html("")] * 3
            return [_NOTHING, _html(""), *hidden, "", *nothing, "", gr.Accordion(visible=False)]
        status, events = Job(run.folder).status(), list(run.events())
        try:
            summary = summarize_run(run)
        except UserError as error:
            return [
                f'<p class="run-message">{escape_text(str(error))}</p>',
                _html(""),
                *hidden,
                "",
                *[_html("")] * 3,
                *_log(run),
            ]
        is_open, has_lora = status.is_open, run.lora_file.is_file()
        return [
            progress_html(run, status, events),
            _html(agreement_html(summary)),
            gr.Button(visible=is_open),
            gr.Button(visible=status.can_resume),
            gr.Button(visible=status.phase == "finished" and not is_measuring_curve(run)),
            gr.Button(copy_label(settings), visible=has_lora and not is_open),
            links_html(run) if not is_open else "",
            _html(strip_html(run, events)),
            _html(curves_html(summary)),
            _html(more_pairs_html(run)),
            *_log(run),
        ]


def progress_html(run: Run, status: Status, events: list[Event]) -> str:
    """The run's name, its state, and its bar."""
    progress = run_progress(status, events)
    is_open = status.is_open
    notes = [progress.activity if is_open else PHASES[status.phase]]
    if progress.total and status.phase != "waiting":
        percent = format_percent(progress.done / progress.total)
        notes.append(f"{progress.done} of {progress.total}" if progress.is_training else percent)
    if status.phase == "running" and progress.is_training and status.seconds_left is not None and progress.done:
        notes.append(f"{format_duration(status.seconds_left)} left")
    width = 100 * progress.done / progress.total if progress.total else 0
    message = f'<p class="run-message">{escape_text(status.message)}</p>' if status.message else ""
    return (
        f'<div class="task run-progress {status.phase}">'
        f"<h3>{escape(run.name)}<small>{escape(' · '.join(notes))}</small></h3>"
        f'<div class="task-bar"><div style="width:{width:.1f}%"></div></div>{message}</div>'
    )


def agreement_html(summary: Summary) -> str:
    """The headline: on how many of the pairs kept aside the model agrees with the person."""
    measured = course(summary.evaluations, "agreement", "low", "high")
    if not measured:
        # The course of a run that has only begun says nothing yet; one that has ended says why.
        return "" if summary.ending == "open" else f'<p class="quiet">{escape_text(headline(summary))}.</p>'
    newest_eval = newest(summary) or {}
    last_step = newest_eval.get("step")
    step, share, low, high = next((point for point in reversed(measured) if point[0] == last_step), measured[-1])
    sure = format_interval(share, low, high)
    pairs = finite_number(newest_eval, "pairs") or 0
    when = f"after step {step:.0f}" if step else "before training"
    if len(measured) > 1 and measured[0][0] == 0:
        when += f"; {format_percent(measured[0][1])} before training"
    return (
        f'<div class="agreement"><b>{format_percent(share)}</b><p>agrees with you on {sure} of {pairs:.0f} pairs '
        f"it has not trained on<small>in brackets: where it lies with 95 % certainty; {when}"
        "</small></p></div>"
    )


def strip_html(run: Run, events: list[Event]) -> str:
    """The base's image beside the LoRA's, for each prompt, in one strip."""
    sample = next((event for event in reversed(events) if event.get("event") == "sample"), None)
    if sample is None:
        return ""
    prompts = [str(prompt) for prompt in sample.get("prompts") or ()]
    step = int(sample.get("step") or 0)
    cells = []
    for index, prompt in enumerate(prompts):
        base, newest = (f"{kind}-{index}.png" for kind in ("base", "newest"))
        if not all((run.samples_folder / name).is_file() for name in (base, newest)):
            continue
        pictures = "".join(
            f'<a href="{address(run, "samples/" + name)}?{step}" target="_blank"><img loading="lazy" '
            f'src="{address(run, "samples/" + name)}?{step}" alt="{label}"><span>{label}</span></a>'
            for name, label in ((base, "base"), (newest, f"LoRA, step {step}"))
        )
        cells.append(
            f'<figure><div class="two">{pictures}</div><figcaption title="{escape(prompt, quote=True)}">'
            f"{escape(prompt)}</figcaption></figure>"
        )
    if cells:
        return f'<div class="sample-strip">{"".join(cells)}</div>'
    sheet = str(sample.get("file") or "")
    if Path(sheet).name != sheet or not (run.samples_folder / sheet).is_file():
        return ""
    return f'<div class="sample-sheet"><img src="{address(run, f"samples/{sheet}")}" alt="sample pictures"></div>'


def curves_html(summary: Summary) -> str:
    """Agreement, errors and margin so far."""
    if not summary.step_events and not summary.evaluations:
        return ""
    charts = (run_charts.agreement(summary), run_charts.errors(summary), run_charts.margin(summary))
    return f'<div class="curves">{"".join(_chart(chart, summary.steps) for chart in charts)}</div>'


def log_html(run: Run) -> str:
    """The end of what the run's process printed."""
    try:
        text = (run.folder / "log.txt").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    lines = text.splitlines()[-_LOG_LINES:]
    return f'<pre class="run-log">{escape(chr(10).join(lines)) or "Nothing was printed yet."}</pre>'


def links_html(run: Run) -> str:
    """The LoRA to download and the report, as far as they are there."""
    links = []
    if run.lora_file.is_file():
        path = escape(str(run.lora_file), quote=True)
        links.append(f'<a href="{address(run, "lora")}" download title="{path}">Download LoRA</a>')
    if run.report_file.is_file():
        links.append(f'<a href="{address(run, "report")}" target="_blank">Report</a>')
    if run.lora_file.is_file():
        links.append(f"<small>{escape(str(run.lora_file))}</small>")
    return " ".join(links)


def ask_for_more(run: Run) -> None:
    """Begin the trainings on parts of the run's pairs, or resume them. Raises UserError where there are too few."""
    job = _curve_job(run)
    if job is not None and job.status().can_resume:
        job.resume()
    elif job is None or not job.status().is_open:
        start(run.workspace, "curve", {"run": run.name})


def is_measuring_curve(run: Run) -> bool:
    """Whether trainings on parts of its pairs go on now."""
    status = curve_status(run)
    return status is not None and status.is_open


def curve_status(run: Run) -> Status | None:
    """How the newest job stands that finds it out for this run."""
    job = _curve_job(run)
    return job.status() if job else None


def more_pairs_html(run: Run) -> str:
    """The job while it goes on, then the chart and what it means."""
    status = curve_status(run)
    shown = task_html(status) if status and status.phase != "finished" else ""
    curve = read_curve(run)
    if curve is None:
        return shown
    sentences = "".join(f"<p>{escape_text(sentence)}</p>" for sentence in curve.sentences())
    chart = learning_chart(curve)
    drawn = draw_svg(chart, curve.measured[-1].pairs)
    return (
        f'{shown}<div class="curves more-pairs"><div class="curve" title="{escape(chart.good, quote=True)}">'
        f"<h4>{escape(chart.title)}</h4>{drawn}</div><div>{sentences}</div></div>"
    )


def _html(inside: str) -> gr.HTML:
    """An empty one would still take its room."""
    return gr.HTML(inside, visible=bool(inside))


def _log(run: Run) -> list[Any]:
    return [log_html(run), gr.Accordion(visible=True)]


def _chart(chart: Chart, steps: int) -> str:
    names = "".join(f'<li class="{line.tone}">{escape(line.label)}</li>' for line in chart.lines)
    key = f'<ul class="key">{names}</ul>' if len(chart.lines) > 1 else ""
    return (
        f'<div class="curve" title="{escape(chart.good, quote=True)}"><h4>{escape(chart.title)}</h4>'
        f"{draw_svg(chart, steps)}{key}</div>"
    )


def _curve_job(run: Run) -> Job | None:
    for job in all_jobs(run.workspace, "curve"):
        with suppress(UserError):  # a damaged folder must not take the others with it
            if job.settings().get("run") == run.name:
                return job
    return None

"""How does a run show on the page, while it goes on and afterwards? As HTML, with everything in it escaped."""

from __future__ import annotations

from html import escape
from pathlib import Path

from ...trainer.cli.progress_bar import as_time
from ...trainer.intervals import share_and_interval
from ...trainer.jobs.job import Status
from ...trainer.reports import run_charts
from ...trainer.reports.charts import Chart, draw
from ...trainer.reports.html import text as words
from ...trainer.reports.summary import Summary, course, headline, number, percent
from ...trainer.reports.summary import measured as newest
from ...trainer.runs.run_folder import Event, Run
from ..server.run_files import address

PHASES = {
    "waiting": "waiting",
    "running": "running",
    "finished": "finished",
    "stopped": "stopped",
    "failed": "failed",
    "died": "ended without a word",
}
_ENCODING = {"check": "looking through the cache", "text": "encoding prompts", "latents": "encoding pictures"}
_LOG_LINES = 200


def progress_html(run: Run, status: Status, events: list[Event]) -> str:
    """The run's name, how it stands, and its bar."""
    done, total, what = _progress(status, events)
    said = [PHASES[status.phase]]
    if status.phase == "waiting" and status.behind:
        said = [f"waits for its turn: {status.behind} has the device"]
    elif status.phase == "running":
        said = [what]
    if total and status.phase != "waiting":
        said.append(f"{done} of {total}" if what == "training" else f"{100 * done // total} %")
    if status.phase == "running" and what == "training" and status.seconds_left is not None and done:
        said.append(f"{as_time(status.seconds_left)} left")
    share = 100 * done / total if total else 0
    message = f'<p class="run-message">{words(status.message)}</p>' if status.message else ""
    return (
        f'<div class="task run-progress {status.phase}"><h3>{escape(run.name)}<small>{escape(" · ".join(said))}</small>'
        f'</h3><div class="task-bar"><div style="width:{share:.1f}%"></div></div>{message}</div>'
    )


def agreement_html(summary: Summary) -> str:
    """The headline: on how many of the pairs kept aside the model agrees with the person."""
    measured = course(summary.evaluations, "agreement", "low", "high")
    if not measured:
        # The course of a run that has only begun says nothing yet; one that has ended says why.
        return "" if summary.ending == "open" else f'<p class="quiet">{words(headline(summary))}.</p>'
    told = newest(summary) or {}
    step, share, low, high = next((one for one in reversed(measured) if one[0] == told.get("step")), measured[-1])
    sure = share_and_interval(share, low, high)
    pairs = number(told, "pairs") or 0
    when = f"after step {step:.0f}" if step else "before training"
    if len(measured) > 1 and measured[0][0] == 0:
        when += f"; {percent(measured[0][1])} before training"
    return (
        f'<div class="agreement"><b>{percent(share)}</b><p>agrees with you on {sure} of {pairs:.0f} pairs '
        f"it has not trained on<small>in brackets: where it lies with 95 % certainty; {when}"
        "</small></p></div>"
    )


def strip_html(run: Run, events: list[Event]) -> str:
    """What the base paints beside what the LoRA paints, a prompt each, in one strip."""
    painted = next((event for event in reversed(events) if event.get("event") == "sample"), None)
    if painted is None:
        return ""
    prompts = [str(prompt) for prompt in painted.get("prompts") or ()]
    step = int(painted.get("step") or 0)
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
    sheet = str(painted.get("file") or "")
    if Path(sheet).name != sheet or not (run.samples_folder / sheet).is_file():
        return ""
    return f'<div class="sample-sheet"><img src="{address(run, f"samples/{sheet}")}" alt="sample pictures"></div>'


def curves_html(summary: Summary) -> str:
    """Agreement, errors and margin so far."""
    if not summary.taken and not summary.evaluations:
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


def _progress(status: Status, events: list[Event]) -> tuple[int, int, str]:
    """Done, of how many, and what: an earlier phase has a bar of its own."""
    for event in reversed(events):
        if event["event"] in ("step", "started", "resumed", "checkpoint"):
            break
        if event["event"] == "encoding":
            return int(event["done"]), int(event["total"]), _ENCODING.get(event["phase"], "encoding")
        if event["event"] in ("turn", "asked"):
            return status.step, status.steps, "loading" if status.phase == "running" else "training"
    return status.step, status.steps, "training"


def _chart(chart: Chart, steps: int) -> str:
    names = "".join(f'<li class="{line.tone}">{escape(line.label)}</li>' for line in chart.lines)
    key = f'<ul class="key">{names}</ul>' if len(chart.lines) > 1 else ""
    return (
        f'<div class="curve" title="{escape(chart.good, quote=True)}"><h4>{escape(chart.title)}</h4>'
        f"{draw(chart, steps)}{key}</div>"
    )

"""How does a long task show on the page?"""

from __future__ import annotations

from ...trainer.jobs.tasks import Status
from ...trainer.reports.html import text as words

_WORDS = {
    "waiting": "waits for its turn",
    "running": "running",
    "paused": "paused",
    "finished": "finished",
    "stopped": "stopped",
    "failed": "failed",
    "died": "ended without a word",
}


def task_html(status: Status | None) -> str:
    """A line about a task and its bar, as HTML; empty for none. Everything in it is escaped."""
    if status is None:
        return ""
    said = [_WORDS[status.phase]]
    if status.total:
        said.append(f"{status.done} of {status.total}")
    if status.phase == "running" and status.seconds_left is not None:
        said.append(f"{_time(status.seconds_left)} left")
    if status.message:
        said.append(status.message)
    share = 100 * status.done / status.total if status.total else 0
    return (
        f'<div class="task {status.phase}"><div class="task-bar"><div style="width:{share:.1f}%"></div></div>'
        f"<p>{words(' · '.join(said))}</p></div>"
    )


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"

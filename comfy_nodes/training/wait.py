"""Waiting for a training: what the node shows of it, and what happens when the person interrupts.

Nothing of ComfyUI is in here; a node hands in its display.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ...trainer.jobs.find_run import RunHandle
    from ...trainer.jobs.job import Status
    from ...trainer.runs.run_folder import Event, Run
    from ...trainer.services.run_progress import RunProgress

_POLL_SECONDS = 0.3
GRACE_SECONDS = 180.0
"""How long a run may take to save after it was asked to stop: it finishes its step, or the images it generates."""
_LOG_LINES = 15
_ENDED = ("finished", "stopped", "failed", "crashed")


@dataclass(frozen=True)
class RunView:
    """How a run stands, for a person: done of total (0 where not known), a line, its newest sheet of samples."""

    done: int
    total: int
    line: str
    samples: Path | None


@dataclass(frozen=True)
class Ending:
    """given_up: a person stopped it, here or elsewhere: it is no failure."""

    status: Status
    given_up: bool


class NodeDisplay(Protocol):
    """Where it is shown, and whether the person interrupted."""

    def show(self, view: RunView) -> None: ...

    def interrupted(self) -> bool:
        """Whether the person asked to stop, since this was last asked."""


def watch(handle: RunHandle, display: NodeDisplay, grace: float = GRACE_SECONDS) -> Ending:
    """How the run ended. An interruption asks it to save and stop; a second one, or `grace` seconds, end it."""
    from ...trainer.jobs.job import Job

    while True:
        status = _status(handle)
        if status.phase in _ENDED:
            return Ending(status, status.phase == "stopped")
        if display.interrupted():
            Job(handle.run.folder).stop()
            return Ending(_stopping(handle, display, status, grace), True)
        display.show(run_view(handle.run, status))
        time.sleep(_POLL_SECONDS)


def run_view(run: Run, status: Status) -> RunView:
    """How `run` stands now."""
    from ...trainer.runs import event_log
    from ...trainer.services.run_progress import run_progress

    events = event_log.read_end(run.events_file)
    sheets = sorted(run.samples_folder.glob("step-*.png")) if run.samples_folder.is_dir() else []
    progress = run_progress(status, events)
    line = _line(status, events, progress)
    return RunView(progress.done, progress.total, line, sheets[-1] if sheets else None)


def ended(run: Run, ending: Ending) -> str:
    """What became of a run that did not finish in time, what of it is kept where, and what to do."""
    status = ending.status
    again = "Queue again to go on from there."
    if status.phase == "stopped":
        if not run.lora_file.is_file():
            return f"{run.name} was stopped before its first step. Queue again to begin."
        return (
            f"{run.name} was stopped at step {status.done} of {status.total}. What it learned so far is saved in "
            f"{run.lora_file}. {again}"
        )
    if status.phase == "finished":
        return f"{run.name} had finished by then. Its LoRA is {run.lora_file}. Queue again to use it."
    if status.phase == "crashed":
        saved = _saved(run)
        kept = f"It was saved at step {saved}. {again}" if saved else "Queue again to begin anew."
        ending_verb = "was ended" if ending.given_up else "ended unexpectedly"
        return f"{run.name} {ending_verb} at step {status.done}. {kept}"
    if status.phase == "failed":
        return f"{run.name} failed: {(status.message or 'it left no message').rstrip('. ')}."
    return f"{run.name} was asked to stop and is still saving what it learned. Queue again in a moment to go on."


def log_tail(run: Run) -> str:
    """The last lines of what the run's process printed, and where all of them are."""
    log = run.folder / "log.txt"
    try:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return "\n".join([f"The last lines of {log}:", *lines[-_LOG_LINES:]]) if lines else ""


def _status(handle: RunHandle) -> Status:
    from ...trainer.jobs.job import Job

    # Polled before the status: a process that ends in between has logged how.
    gone = handle.process is not None and handle.process.poll() is not None
    status = Job(handle.run.folder).status()
    if gone and status.phase not in _ENDED:
        return replace(status, phase="crashed", seconds_left=None, waiting_for="")
    return status


def _stopping(handle: RunHandle, display: NodeDisplay, status: Status, grace: float) -> Status:
    from ...trainer.jobs.job import Job

    def is_there() -> bool:  # also after its last event: who goes on at once must find it gone
        return handle.process.poll() is None if handle.process else Job(handle.run.folder).is_alive()

    until = time.monotonic() + grace
    while status.phase not in _ENDED or is_there():
        impatient = display.interrupted() or time.monotonic() > until
        if impatient and handle.process is None:
            return status  # started by somebody else: it ends by itself, at the next step
        if impatient and handle.process:
            handle.process.kill()
            handle.process.wait()
        now = run_view(handle.run, status)
        line = "stopping: what it learned is being saved; interrupt again to end it at once, which loses some steps"
        display.show(RunView(now.done, now.total, line, now.samples))
        time.sleep(_POLL_SECONDS)
        status = _status(handle)
    return status


def _line(status: Status, events: list[Event], progress: RunProgress) -> str:
    if progress.is_training:
        return _training(status, events)
    return f"{progress.activity}: {progress.done} of {progress.total}" if progress.total else progress.activity


def _training(status: Status, events: list[Event]) -> str:
    from ...trainer.text import finite_number, format_duration, format_interval

    parts = [f"step {status.done} of {status.total}"]
    step = next((one for one in reversed(events) if one["event"] == "step"), {})
    if (loss := finite_number(step, "loss")) is not None:
        parts.append(f"loss {loss:.4f}")
    if status.agreement is not None:
        share = format_interval(status.agreement, status.agreement_low, status.agreement_high)
        parts.append(f"agrees with you on {share}")
    if status.done == status.total:
        parts.append("evaluates and generates samples")
    elif status.seconds_left is not None:
        parts.append(f"{format_duration(status.seconds_left)} left")
    return ", ".join(parts)


def _saved(run: Run) -> int:
    from ...trainer.training.checkpoint import latest_step

    return latest_step(run.state_folder) or 0

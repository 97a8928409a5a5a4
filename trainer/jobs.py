"""A run as a process of its own: start it, see how it stands, ask it to stop. Every face uses these."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .config import RunConfig
from .files import no_room_explained
from .processes import is_locked, launch
from .runs import Event, Run

Phase = Literal["waiting", "running", "finished", "stopped", "failed", "died"]


@dataclass(frozen=True)
class Status:
    """How a run stands: read from its folder, so any process may ask about any run.

    phase: "waiting" has not begun, "died" ended without a word (killed, power cut) and can be resumed.
    step of steps are done; seconds_left is None while unknown; message is its last warning or error.
    """

    phase: Phase
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    agreement: float | None = None
    message: str | None = None


def start(workspace: Path, config: RunConfig) -> Run:
    """Make a new run and train it in a process that outlives this one. Raises UserError where its name is taken."""
    run = Run.create(workspace.resolve(), config)
    resume(run)
    return run


def resume(run: Run) -> subprocess.Popen[bytes]:
    """Train `run` in a process that outlives this one. What the process prints goes to log.txt in the run's folder."""
    return launch(["resume", run.name, "--workspace", str(run.workspace)], run.folder / "log.txt")


def stop(run: Run) -> None:
    """Ask `run` to finish its step, save and end. Returns at once; `status` tells when it has."""
    with no_room_explained(run.folder):
        run.stop_file.touch()


def is_alive(run: Run) -> bool:
    """Whether some process is training `run` now."""
    return is_locked(run.lock_file)


def status(run: Run) -> Status:
    """How `run` stands."""
    alive = is_alive(run)  # asked before the events are read: one that ends in between has its last event there
    events = list(run.events())
    if not events:
        return Status("running" if alive else "waiting")
    last: dict[str, Event] = {event["event"]: event for event in events}
    ended = events[-1]["event"] if events[-1]["event"] in ("finished", "stopped", "failed") else None
    step = last.get("step", {})
    return Status(
        phase=ended or ("running" if alive else "died"),
        step=step.get("step", 0),
        steps=last.get("started", {}).get("steps", 0),
        seconds_left=step.get("remaining"),
        agreement=last.get("evaluation", {}).get("agreement"),
        message=last.get("failed", {}).get("error") if ended == "failed" else last.get("warning", {}).get("text"),
    )

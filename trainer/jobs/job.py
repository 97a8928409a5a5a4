"""Jobs: trainings and other long work, each in a process of its own that outlives whoever started it.

<workspace>/runs/<name>/            a training, whose settings are run.toml: see run_folder.py
<workspace>/tasks/<kind>-<stamp>/   any other job
    task.json                       its kind and settings
In either:
    events.jsonl                    what happened to it, see event_log.py
    stop, pause                     their existence asks it to end; a paused one is meant to be resumed
    lock                            held by its process, for as long as that lives
    log.txt                         what the process printed

How a job stands is read from its folder, so any process may ask, start and stop it. Work is never lost: what a job made
is in the workspace, and one that is resumed does only what is left. So a pause ends the process, which gives the
device's memory to whatever the person paused it for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any, Literal

from ..atomic_files import explain_disk_full
from ..config.run_config import RunConfig
from ..errors import UserError
from ..runs import event_log
from ..runs.run_folder import Event, Run
from .process import is_locked, launch

Phase = Literal["waiting", "running", "paused", "finished", "stopped", "failed", "crashed"]

STARTING_SECONDS = 60.0
"""How long a process may take to be there before its job counts as crashed."""
ENDINGS = ("paused", "finished", "stopped", "failed")
_PROGRESSING = ("requested", "waiting", "acquired", "started", "encoding", "step", "progress")
"""The events that tell a job which waits from one that works."""
_POLL_SECONDS = 0.3


@dataclass(frozen=True)
class Status:
    """How a job stands.

    phase: "waiting" for its process or for the device; "crashed": its process ended without saying why (killed, power
    cut), and it can be resumed.
    done of total: steps of a training, 0 of 0 while unknown. seconds_left: None while unknown.
    message: what it does now, came to or failed of; of a training its last warning or error, or why it ended early.
    waiting_for: the title of the job that has the device while this one waits for it; "" where none is known.
    agreement: of a training, on `agreement_pairs` held-out pairs as last measured, or at the step that was kept; low
    and high are the ends of its 95 % interval.
    """

    phase: Phase
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    message: str = ""
    waiting_for: str = ""
    agreement: float | None = None
    agreement_low: float | None = None
    agreement_high: float | None = None
    agreement_pairs: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether it runs or waits to."""
        return self.phase in ("waiting", "running")

    @property
    def can_resume(self) -> bool:
        return self.phase in ("paused", "stopped", "failed", "crashed")


@dataclass(frozen=True)
class Job:
    """One job on disk: Job(run.folder) is the training of `run`."""

    folder: Path

    @classmethod
    def open(cls, workspace: Path, name: str) -> Job:
        """A job that is no training. Raises UserError where there is none of that name."""
        job = cls(workspace / "tasks" / name)
        # A name may come from a browser: it must stay a name.
        if Path(name).name != name or not job.settings_file.is_file():
            raise UserError(f"there is no task named {name} in {workspace / 'tasks'}")
        return job

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def workspace(self) -> Path:
        return self.folder.parent.parent

    @property
    def is_training(self) -> bool:
        return self.folder.parent.name != "tasks"

    @property
    def kind(self) -> str:
        """The name of its kind; "train" of a training."""
        return "train" if self.is_training else self.name.partition("-")[0]

    @property
    def settings_file(self) -> Path:
        return Run(self.folder).settings_file if self.is_training else self.folder / "task.json"

    @property
    def events_file(self) -> Path:
        return self.folder / "events.jsonl"

    @property
    def stop_file(self) -> Path:
        return self.folder / "stop"

    @property
    def pause_file(self) -> Path:
        return self.folder / "pause"

    @property
    def lock_file(self) -> Path:
        return self.folder / "lock"

    @property
    def log_file(self) -> Path:
        return self.folder / "log.txt"

    def settings(self) -> dict[str, Any]:
        """What a job that is no training was started with. Raises UserError where its file is damaged."""
        try:
            return dict(json.loads(self.settings_file.read_text(encoding="utf-8"))["settings"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.settings_file} cannot be read ({error}): start the task anew") from error

    def log(self, event: str, **values: Any) -> None:
        """requested, waiting, acquired, progress, paused, stopped, finished, failed; of trainings see Run.log."""
        event_log.append(self.events_file, event, values)

    def is_alive(self) -> bool:
        """Whether some process works at it now."""
        return is_locked(self.lock_file)

    def status(self) -> Status:
        """How it stands now."""
        alive = self.is_alive()  # before the events are read: one that ends in between has its last event there
        # A training's course is in all of its events; of the others the newest are enough, however many there are.
        events = list(Run(self.folder).events()) if self.is_training else event_log.read_end(self.events_file)
        started = {"event": "requested", "time": _modified(self.settings_file)}
        newest = next((event for event in reversed(events) if event["event"] in _PROGRESSING), started)
        phase = self._phase(events, newest, alive)
        if self.is_training:
            return _training_status(phase, events, newest)
        progress = next((event for event in reversed(events) if event["event"] == "progress"), {})
        message = (events[-1] if phase in ENDINGS else progress if phase == "running" else {}).get("message", "")
        return Status(
            phase,
            done=int(progress.get("done", 0)),
            total=int(progress.get("total", 0)),
            seconds_left=progress.get("remaining") if phase == "running" else None,
            message="its process ended unexpectedly: log.txt may say why" if phase == "crashed" else str(message),
            waiting_for=_waiting_for(phase, newest),
        )

    def stop(self) -> None:
        """Ask it to end, keeping what is done; one that waits just ends. Returns at once: see `status`."""
        self._request(self.stop_file)

    def pause(self) -> None:
        """Ask it to end and free the device; it counts as meant to be resumed. A training is stopped."""
        self._request(self.stop_file if self.is_training else self.pause_file)

    def resume(self, rating: bool = True) -> Popen[bytes] | None:
        """Start its process for what is left to do; None where one works at it already, or nothing is left.

        rating: of a training, whether its dataset's unjudged pairs are rated afterwards; not where the device is needed
        for more at once.
        """
        for file in (self.stop_file, self.pause_file):
            with suppress(FileNotFoundError):
                file.unlink()
        if self.is_training:  # one that was stopped and is still saving has left by the time the new one wants the lock
            self.log("requested", rating=rating)
            return launch(["resume", self.name, "--workspace", str(self.workspace)], self.log_file)
        # One that has seen the request but still lives looks again before it leaves: see worker.run_job.
        if self.is_alive() or self.status().phase == "finished":
            return None
        self.log("requested")
        return launch(["task", str(self.folder)], self.log_file)

    def _phase(self, events: list[Event], newest: Event, alive: bool) -> Phase:
        if events and events[-1]["event"] in ENDINGS:
            return events[-1]["event"]
        if newest["event"] == "requested" and time.time() - newest["time"] < STARTING_SECONDS:
            return "waiting"
        if not alive and not self.is_alive():  # asked again: it may have begun in between
            return "crashed"
        return "waiting" if newest["event"] in ("requested", "waiting") else "running"

    def _request(self, file: Path) -> None:
        with explain_disk_full(self.folder):
            file.touch()


def start_training(workspace: Path, config: RunConfig) -> Run:
    """Make a new run and start its training. Raises UserError where its name is taken."""
    run = Run.create(workspace.resolve(), config)
    Job(run.folder).resume()
    return run


def wait(job: Job, listen: Callable[[Status], None]) -> Status:
    """Wait until a job has ended, calling `listen` whenever its status changes. Returns how it ended."""
    before = None
    while True:
        status = job.status()
        if status != before:
            listen(before := status)
        if not status.is_open and not job.is_alive():
            return status
        time.sleep(_POLL_SECONDS)


def all_jobs(workspace: Path, *kinds: str) -> list[Job]:
    """The jobs of these kinds, or of every kind, the newest first; trainings are listed by `run_folder.all_runs`."""
    jobs = [Job(file.parent) for file in (workspace.resolve() / "tasks").glob("*/task.json")]
    jobs = [job for job in jobs if job.kind in kinds or not kinds]
    return sorted(jobs, key=lambda job: job.name.partition("-")[2], reverse=True)


def _training_status(phase: Phase, events: list[Event], newest: Event) -> Status:
    last: dict[str, Event] = {event["event"]: event for event in events}
    step, evaluation = last.get("step", {}), last.get("evaluation", {})
    result = last.get("finished", {}) if phase == "finished" else {}
    at_kept = [event for event in events if event["event"] == "evaluation" and event["step"] == result.get("kept")]
    if at_kept:
        evaluation = at_kept[-1]
    message = last.get("failed", {}).get("error") if phase == "failed" else last.get("warning", {}).get("text")
    return Status(
        phase,
        done=step.get("step", 0),
        total=result["step"] if result.get("early") else last.get("started", {}).get("steps", 0),
        seconds_left=step.get("remaining") if phase == "running" else None,
        message=str(result.get("said") or message or ""),
        waiting_for=_waiting_for(phase, newest),
        agreement=evaluation.get("agreement"),
        agreement_low=evaluation.get("low"),
        agreement_high=evaluation.get("high"),
        agreement_pairs=evaluation.get("pairs"),
    )


def _waiting_for(phase: Phase, newest: Event) -> str:
    return str(newest.get("waiting_for", "")) if phase == "waiting" else ""


def _modified(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0

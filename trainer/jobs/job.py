"""A run as a process of its own: start it, see how it stands, ask it to stop. Every face uses these."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..atomic_files import explain_disk_full
from ..cancellation import Cancelled, StopRequest
from ..config.run_config import RunConfig
from ..distributed import SINGLE, World
from ..errors import UserError
from ..runs import event_log
from ..runs.run_folder import Event, Run
from .gpu_queue import acquire_gpu
from .process import is_locked, launch

if TYPE_CHECKING:
    from ..training.loop import Outcome

Phase = Literal["waiting", "running", "finished", "stopped", "failed", "died"]

STARTING_SECONDS = 60.0
"""How long a process may take to be there before its run counts as died."""
_TELLING = ("asked", "waiting", "turn", "started", "encoding", "step")
"""The events that tell a run which waits from one that has begun."""


@dataclass(frozen=True)
class Status:
    """How a run stands: read from its folder, so any process may ask about any run.

    phase: "waiting" for its process or its turn, "died" ended without a word (killed, power cut) and can be resumed.
    step of steps are done; seconds_left is None while unknown; message is its last warning or error; of a finished run
    why it ended early and which step it kept, if it did.
    agreement: on `agreement_pairs` pairs kept aside, as last measured; low and high are the ends of its 95 % interval.
    behind: what has the device while the run waits for its turn, in words; "" where nothing is known to.
    """

    phase: Phase
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    agreement: float | None = None
    agreement_low: float | None = None
    agreement_high: float | None = None
    agreement_pairs: int | None = None
    message: str | None = None
    behind: str = ""


def start(workspace: Path, config: RunConfig) -> Run:
    """Make a new run and train it in a process that outlives this one. Raises UserError where its name is taken."""
    run = Run.create(workspace.resolve(), config)
    resume(run)
    return run


def resume(run: Run, rating: bool = True) -> subprocess.Popen[bytes]:
    """Train `run` in a process that outlives this one. What the process prints goes to log.txt in the run's folder.

    rating: whether its dataset's unjudged pairs are rated afterwards; not where the device is needed for more at once.
    """
    with suppress(FileNotFoundError):
        run.stop_file.unlink()
    run.log("asked", rating=rating)
    return launch(["resume", run.name, "--workspace", str(run.workspace)], run.folder / "log.txt")


def train_in_turn(run: Run, stop: StopRequest, world: World = SINGLE) -> Outcome:
    """Train `run` in this process, once it is its turn. Until then there is no torch in it, and it can be stopped.

    Of several processes the first one stands in line for all. Raises as loop.train does.
    """
    if not world.is_main:
        with stop.listening(forget=False):
            with world.synchronized():  # ends when the first one has its turn
                pass
            return _trained(run, stop, world)
    # A face that asked for this process cleared the request to stop itself: one that is there now came later.
    newest = (event_log.read_end(run.events_file) or [{}])[-1]
    by_face = newest.get("event") == "asked"
    with run.alone(), stop.listening(forget=not by_face), ExitStack() as device:
        try:
            with world.synchronized():
                device.enter_context(
                    acquire_gpu(run.workspace, run.folder, lambda behind: run.log("waiting", behind=behind), stop.check)
                )
                stop.check()
        except Cancelled:
            run.log("stopped", step=0)
            raise
        run.log("turn")
        outcome = _trained(run, stop, world)
    if by_face and newest.get("rating", True) and outcome.finished:
        _rate(run)
    return outcome


def _trained(run: Run, stop: StopRequest, world: World) -> Outcome:
    from ..training.loop import train_locked  # torch, which whoever waits does without

    return train_locked(run, stop, world)


def _rate(run: Run) -> None:
    """What the new LoRA is least sure of is the most useful to judge next: have its dataset's unjudged pairs rated."""
    from ..preferences.pairs import dataset_named
    from .tasks import start as start_task

    if dataset := dataset_named(run.config().data.pairs):
        with suppress(UserError):  # the dataset may be gone; the training is no worse for it
            start_task(run.workspace, "rate", {"run": run.name, "dataset": dataset})


def stop(run: Run) -> None:
    """Ask `run` to finish its step, save and end; one that waits for its turn just ends. Returns at once."""
    with explain_disk_full(run.folder):
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
    newest = next((event for event in reversed(events) if event["event"] in _TELLING), {})
    starting = newest.get("event") == "asked" and time.time() - newest["time"] < STARTING_SECONDS
    waiting = starting or (alive and newest.get("event") in ("asked", "waiting"))
    step, measured = last.get("step", {}), last.get("evaluation", {})
    result = last.get("finished", {}) if ended == "finished" else {}
    if kept := [one for one in events if one["event"] == "evaluation" and one["step"] == result.get("kept")]:
        measured = kept[-1]
    message = last.get("failed", {}).get("error") if ended == "failed" else last.get("warning", {}).get("text")
    return Status(
        phase=ended or ("waiting" if waiting else "running" if alive else "died"),
        step=step.get("step", 0),
        steps=result["step"] if result.get("early") else last.get("started", {}).get("steps", 0),
        seconds_left=step.get("remaining"),
        agreement=measured.get("agreement"),
        agreement_low=measured.get("low"),
        agreement_high=measured.get("high"),
        agreement_pairs=measured.get("pairs"),
        message=result.get("said") or message,
        behind=str(newest.get("behind", "")) if alive else "",
    )

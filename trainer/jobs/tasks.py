"""A long task that is not a training, as a process of its own: start it, see how it stands, pause, stop and go on.

<workspace>/tasks/<kind>-<stamp>/
    task.json       its kind and settings
    events.jsonl    what it tells, see event_log.py
    stop, pause     their existence asks it to end; a paused one is meant to go on
    lock            held by its process, for as long as that lives
    log.txt         what the process printed

Work is never lost: what a task made is in the workspace, and a task that is started again leaves out what is there.
So a pause ends the process, which gives the device's memory to whatever the person paused it for.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from ..atomic_files import explain_disk_full, write_text
from ..errors import UserError
from ..runs import event_log
from .process import is_locked, launch

Phase = Literal["waiting", "running", "paused", "finished", "stopped", "failed", "died"]

KINDS = {
    "generate": "..evaluation.candidates",
    "compare": "..evaluation.generate_comparison",
    "sweep": "..evaluation.strength_sweep",
    "rate": "..evaluation.rate_pairs",
    "curve": "..evaluation.learning_curve",
    "targets": "..evaluation.rejected_from_base",
}
"""The module of each kind. It holds check(workspace, settings), which gives them whole or raises UserError, and
run(work), which does the work as work.py says and returns a sentence about what came of it."""

ENDINGS = ("paused", "finished", "stopped", "failed")
_KEPT = 20
_POLL_SECONDS = 0.3
_STARTING_SECONDS = 60.0
"""How long a process may take to be there before it counts as died."""


@dataclass(frozen=True)
class Status:
    """How a task stands: read from its folder, so any process may ask about any task.

    phase: "waiting" for its process or for its turn on the device; "died": ended without a word (killed, power cut).
    done of total things are done, 0 of 0 while unknown; seconds_left is None while unknown; message: what it does now,
    waits for, came to or failed of.
    """

    phase: Phase
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    message: str = ""

    @property
    def is_open(self) -> bool:
        """Whether something goes on: it runs or waits to."""
        return self.phase in ("waiting", "running")

    @property
    def can_go_on(self) -> bool:
        return self.phase in ("paused", "stopped", "failed", "died")


@dataclass(frozen=True)
class Task:
    """One task on disk."""

    folder: Path

    @classmethod
    def open(cls, workspace: Path, name: str) -> Task:
        """An existing task. Raises UserError where there is none of that name."""
        task = cls(workspace / "tasks" / name)
        # A name may come from a browser: it must stay a name.
        if Path(name).name != name or not task.settings_file.is_file():
            raise UserError(f"there is no task named {name} in {workspace / 'tasks'}")
        return task

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def workspace(self) -> Path:
        return self.folder.parent.parent

    @property
    def kind(self) -> str:
        return self.name.partition("-")[0]

    @property
    def settings_file(self) -> Path:
        return self.folder / "task.json"

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

    def settings(self) -> dict[str, Any]:
        """What it was started with. Raises UserError where its file is damaged."""
        try:
            return dict(json.loads(self.settings_file.read_text(encoding="utf-8"))["settings"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.settings_file} cannot be read ({error}): start the task anew") from error

    def log(self, event: str, **values: Any) -> None:
        """asked, waiting, running, progress, paused, stopped, finished, failed."""
        event_log.append(self.events_file, event, values)

    def is_alive(self) -> bool:
        return is_locked(self.lock_file)

    def status(self) -> Status:
        """How the task stands now."""
        alive = self.is_alive()  # asked before the events are read: one that ends in between has its last event there
        events = event_log.read_end(self.events_file)
        last = events[-1] if events else {"event": "asked", "time": _seconds(self.settings_file)}
        progress = next((event for event in reversed(events) if event["event"] == "progress"), {})
        done, total = int(progress.get("done", 0)), int(progress.get("total", 0))
        kind = last["event"]
        if kind in ENDINGS:
            return Status(kind, done, total, message=str(last.get("message", "")))
        starting = kind == "asked" and time.time() - last["time"] < _STARTING_SECONDS
        if not alive and not starting and not self.is_alive():  # asked again: it may have begun in between
            return Status("died", done, total, message="it ended without a word: its log.txt may say why")
        if kind in ("asked", "waiting"):
            return Status("waiting", done, total, message=str(last.get("message", "")))
        return Status("running", done, total, progress.get("remaining"), str(progress.get("message", "")))

    def stop(self) -> None:
        """Ask it to end, keeping what is done. Returns at once; `status` tells when it has."""
        self._ask(self.stop_file)

    def pause(self) -> None:
        """Ask it to end and free the device; it keeps what is done and counts as meant to go on."""
        self._ask(self.pause_file)

    def go_on(self) -> None:
        """Let it do what is left, wherever it ended; does nothing to one that runs and was not asked to end."""
        for file in (self.stop_file, self.pause_file):
            with suppress(FileNotFoundError):
                file.unlink()
        # One that has seen the request but still lives looks again before it leaves: see work.perform.
        if not self.is_alive() and self.status().phase != "finished":
            self.log("asked")
            launch(["task", str(self.folder)], self.folder / "log.txt")

    def _ask(self, file: Path) -> None:
        with explain_disk_full(self.folder):
            file.touch()


def start(workspace: Path, kind: str, settings: Mapping[str, Any]) -> Task:
    """Begin a task in a process that outlives this one. Raises UserError, from its kind, for settings that cannot be.

    Folders of tasks that ended are cleared away, all but the newest.
    """
    workspace = workspace.resolve()
    checked = module_of(kind).check(workspace, dict(settings))
    _clear(workspace)
    task = Task(_new_folder(workspace, kind))
    write_text(task.settings_file, json.dumps({"kind": kind, "settings": checked}, indent=1, ensure_ascii=False))
    task.go_on()
    return task


def follow(task: Task, listen: Callable[[Status], None]) -> Status:
    """Wait until a task has ended, telling how it stands whenever that changes. Returns how it ended."""
    told = None
    while True:
        status = task.status()
        if status != told:
            listen(told := status)
        if not status.is_open and not task.is_alive():
            return status
        time.sleep(_POLL_SECONDS)


def all_tasks(workspace: Path) -> list[Task]:
    """Every task of a workspace, the newest first."""
    found = [Task(file.parent) for file in (workspace.resolve() / "tasks").glob("*/task.json")]
    return sorted(found, key=lambda task: task.name.partition("-")[2], reverse=True)


def module_of(kind: str) -> ModuleType:
    """The module that does tasks of a kind. Raises UserError where there is no such kind."""
    if kind not in KINDS:
        raise UserError(f"there is no task of the kind {kind!r}: known are {', '.join(KINDS)}")
    return import_module(KINDS[kind], __package__)


def _new_folder(workspace: Path, kind: str) -> Path:
    parent = workspace / "tasks"
    with explain_disk_full(parent):
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            folder = parent / f"{kind}-{datetime.now():%Y%m%d-%H%M%S-%f}"
            with suppress(FileExistsError):
                folder.mkdir()
                return folder


def _clear(workspace: Path) -> None:
    over = [task for task in all_tasks(workspace) if not task.status().is_open and task.status().phase != "paused"]
    for task in over[_KEPT - 1 :]:
        shutil.rmtree(task.folder, ignore_errors=True)


def _seconds(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0

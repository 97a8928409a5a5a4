"""What does the process of a task do: wait for its turn, work, tell of it, and end when it is asked to?"""

from __future__ import annotations

import logging
import time
import traceback
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..cancellation import Cancelled, StopRequest
from ..errors import UserError
from . import tasks
from .gpu_queue import acquire_gpu
from .tasks import Task

log = logging.getLogger(__name__)

_TELL_SECONDS = 0.5
_LOCK_SECONDS = 2.0
"""Whoever asks whether the task is alive holds its lock for a moment: that is no reason to leave."""


@dataclass
class Work:
    """What a kind of task is given: where it works, with which settings, and whom it tells.

    `tell` and `check` raise Cancelled where the task was asked to end. What is made by then must be safe, and made
    so that running again with the same settings does only what is left.
    """

    workspace: Path
    settings: dict[str, Any]
    folder: Path
    """The task's own, for what nothing else in the workspace keeps."""
    task: Task
    stop: StopRequest
    _began: tuple[float, int] | None = field(default=None, init=False)
    _told: float = field(default=0.0, init=False)
    _unwritten: dict[str, Any] | None = field(default=None, init=False)

    def check(self) -> None:
        """Raise Cancelled if the task was asked to stop or to pause."""
        if self._is_asked_to_end():
            raise Cancelled

    def tell(self, done: int, total: int, message: str = "") -> None:
        """Say that `done` of `total` things are done, and what it does now. Cheap: it writes twice a second at most."""
        asked = self._is_asked_to_end()
        now = time.monotonic()
        if self._began is None:
            self._began = (now, done)
        since, before = self._began
        # Only what this process did says how fast it is: what was already there took no time.
        remaining = (total - done) * (now - since) / (done - before) if done > before else None
        self._unwritten = {"done": done, "total": total, "remaining": remaining, "message": message}
        if now - self._told < _TELL_SECONDS and done < total and not asked:
            return
        self._told = now
        self.write_out()
        if asked:
            raise Cancelled

    def write_out(self) -> None:
        """Write what was told last, if it was not worth a line then: before the end it is."""
        if self._unwritten is not None:
            self.task.log("progress", **self._unwritten)
            self._unwritten = None

    def _is_asked_to_end(self) -> bool:
        return bool(self.stop) or self.task.pause_file.exists()


def perform(folder: Path) -> int:
    """Do the task in `folder`. Returns the exit code: 0, 1 or 2 where it failed, 143 after SIGTERM.

    Another process that does it already is left to it.
    """
    task = Task(folder.resolve())
    if not task.settings_file.is_file():
        raise UserError(f"{folder} is no task: it has no task.json")
    while True:
        stop = StopRequest(task.stop_file)
        try:
            with FileLock(task.lock_file, timeout=_LOCK_SECONDS):
                code = _once(task, stop)
        except Timeout:
            return 0
        asked_to_end = task.pause_file.exists() or task.stop_file.exists() or stop.signal is not None
        # Somebody may have let it go on after it had seen the request and while it still held the lock, see Task.go_on.
        if asked_to_end or task.status().phase not in ("paused", "stopped"):
            return code


def _behind(task: Task, what: str) -> None:
    task.log("waiting", message=f"{what} has the device")


def _once(task: Task, stop: StopRequest) -> int:
    with stop.listening(forget=False):
        try:
            work = Work(task.workspace, task.settings(), task.folder, task, stop)
            task.log("waiting")
            work.check()
            with acquire_gpu(task.workspace, task.folder, partial(_behind, task), work.check):
                task.log("running")
                try:
                    said = tasks.module_of(task.kind).run(work)
                finally:
                    work.write_out()
        except Cancelled:
            task.log("paused" if task.pause_file.exists() and not stop else "stopped")
            return stop.exit_code
        except UserError as error:
            task.log("failed", message=str(error))
            log.error("%s", error)
            return 2
        except Exception as error:
            traceback.print_exc()  # standard error is log.txt
            task.log("failed", message=f"{type(error).__name__}: {error} (more in {task.folder / 'log.txt'})")
            return 1
        else:
            task.log("finished", message=said)
    return 0

"""Job kinds: what jobs that are no training do, the context that their work is given, and how one is started."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ..atomic_files import explain_disk_full, write_text
from ..cancellation import Cancelled, StopRequest
from .job import Job, all_jobs

_KEPT = 20
_REPORT_SECONDS = 0.5


@dataclass
class JobContext:
    """What the work of a job is given: where it works, with which settings, and to whom it reports.

    `report_progress` and `check` raise Cancelled where the job was asked to end. What is made by then must be safe,
    and made so that running again with the same settings does only what is left.
    """

    workspace: Path
    settings: dict[str, Any]
    job: Job
    stop: StopRequest
    _began: tuple[float, int] | None = field(default=None, init=False)
    _reported: float = field(default=0.0, init=False)
    _unwritten: dict[str, Any] | None = field(default=None, init=False)

    @property
    def folder(self) -> Path:
        """The job's own, for what nothing else in the workspace keeps."""
        return self.job.folder

    @property
    def stop_requested(self) -> bool:
        """Whether it was asked to stop or to pause."""
        return bool(self.stop) or self.job.pause_file.exists()

    def check(self) -> None:
        """Raise Cancelled if the job was asked to stop or to pause."""
        if self.stop_requested:
            raise Cancelled

    def report_progress(self, done: int, total: int, message: str = "") -> None:
        """`done` of `total` things are done; message: what it does now. Cheap: it writes twice a second at most."""
        stop_requested = self.stop_requested
        now = time.monotonic()
        if self._began is None:
            self._began = (now, done)
        since, before = self._began
        # Only what this process did says how fast it is: what was already there took no time.
        remaining = (total - done) * (now - since) / (done - before) if done > before else None
        self._unwritten = {"done": done, "total": total, "remaining": remaining, "message": message}
        if now - self._reported < _REPORT_SECONDS and done < total and not stop_requested:
            return
        self._reported = now
        self.flush()
        if stop_requested:
            raise Cancelled

    def flush(self) -> None:
        """Write the last progress, if it came too soon to be worth a line then: before the end it is."""
        if self._unwritten is not None:
            self.job.log("progress", **self._unwritten)
            self._unwritten = None


@dataclass(frozen=True)
class JobKind:
    """What jobs of a kind do; trainings have a process of their own kind, see `worker.run_training`.

    check: (workspace, settings) -> the settings complete; raises UserError for what cannot be. run: does the work and
    returns a sentence about what came of it.
    """

    name: str
    check: Callable[[Path, dict[str, Any]], dict[str, Any]]
    run: Callable[[JobContext], str]


def start(workspace: Path, kind: JobKind, settings: Mapping[str, Any]) -> Job:
    """Start a job that is no training. Raises UserError, from its kind, for settings that cannot be.

    Folders of jobs that ended are cleared away, all but the newest.
    """
    workspace = workspace.resolve()
    checked = kind.check(workspace, dict(settings))
    _clear(workspace)
    job = Job(_new_folder(workspace, kind.name))
    write_text(job.settings_file, json.dumps({"kind": kind.name, "settings": checked}, indent=1, ensure_ascii=False))
    job.resume()
    return job


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
    over = [job for job in all_jobs(workspace) if not job.status().is_open and job.status().phase != "paused"]
    for job in over[_KEPT - 1 :]:
        shutil.rmtree(job.folder, ignore_errors=True)

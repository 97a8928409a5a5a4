"""The process of a job: it waits for the GPU, works, reports its progress, and ends when it is asked to."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from ..cancellation import Cancelled, StopRequest
from ..distributed import SINGLE, World
from ..errors import UserError
from ..models.fast_start import load_model_libraries
from ..runs import event_log
from ..runs.run_folder import Run
from .gpu_queue import acquire_gpu
from .job import Job
from .kind import JobContext, JobKind

if TYPE_CHECKING:
    from ..training.loop import Outcome

log = logging.getLogger(__name__)

_LOCK_SECONDS = 2.0
"""Whoever asks whether the job is alive holds its lock for a moment: that is no reason to leave."""


def run_job(folder: Path, kinds: Mapping[str, JobKind]) -> int:
    """Do the work of the job in `folder`, which is no training; kinds: by their names.

    Returns the exit code: 0, 1 or 2 where it failed, 143 after SIGTERM. Another process that does it already is left
    to it.
    """
    job = Job(folder.resolve())
    if not job.settings_file.is_file():
        raise UserError(f"{folder} is no task: it has no task.json")
    while True:
        stop = StopRequest(job.stop_file)
        try:
            with FileLock(job.lock_file, timeout=_LOCK_SECONDS):
                code = _run_once(job, kinds, stop)
        except Timeout:
            return 0
        stop_requested = job.pause_file.exists() or job.stop_file.exists() or stop.signal is not None
        # It may have been resumed after it had seen the request and while it still held the lock, see Job.resume.
        if stop_requested or job.status().phase not in ("paused", "stopped"):
            return code


def run_training(
    run: Run, stop: StopRequest, world: World = SINGLE, when_finished: Callable[[Run], object] = lambda run: None
) -> Outcome:
    """Train `run` in this process, once it has the GPU. Until then there is no torch in it, and it can be stopped.

    Of several processes the first one queues for all. when_finished: is called with a run that has finished, where a
    face requested it and wants its pairs rated afterwards (see `Job.resume`). Raises as loop.train does.
    """
    if not world.is_main:
        with stop.listening(forget=False):
            with world.synchronized():  # ends when the first one has the GPU
                pass
            return _train(run, stop, world)
    # A face that asked for this process cleared the request to stop itself: one that is there now came later.
    newest = (event_log.read_end(run.events_file) or [{}])[-1]
    by_face = newest.get("event") == "requested"
    with run.locked(), stop.listening(forget=not by_face), ExitStack() as device:
        try:
            with world.synchronized():
                on_wait = partial(_log_waiting, run)
                device.enter_context(acquire_gpu(run.workspace, run.folder, on_wait, stop.check))
                stop.check()
        except Cancelled:
            run.log("stopped", step=0)
            raise
        run.log("acquired")
        outcome = _train(run, stop, world)
    if by_face and newest.get("rating", True) and outcome.finished:
        when_finished(run)
    return outcome


def _train(run: Run, stop: StopRequest, world: World) -> Outcome:
    load_model_libraries()  # with torch, which whoever waits does without
    from ..training.loop import train_locked

    return train_locked(run, stop, world)


def _log_waiting(job: Run | Job, waiting_for: str) -> None:
    job.log("waiting", waiting_for=waiting_for)


def _run_once(job: Job, kinds: Mapping[str, JobKind], stop: StopRequest) -> int:
    with stop.listening(forget=False):
        try:
            if job.kind not in kinds:
                raise UserError(f"there is no task of the kind {job.kind!r}: known are {', '.join(kinds)}")
            context = JobContext(job.workspace, job.settings(), job, stop)
            job.log("waiting")
            context.check()
            with acquire_gpu(job.workspace, job.folder, partial(_log_waiting, job), context.check):
                job.log("acquired")
                load_model_libraries()
                try:
                    message = kinds[job.kind].run(context)
                finally:
                    context.flush()
        except Cancelled:
            job.log("paused" if job.pause_file.exists() and not stop else "stopped")
            return stop.exit_code
        except UserError as error:
            job.log("failed", message=str(error))
            log.error("%s", error)
            return 2
        except Exception as error:
            traceback.print_exc()  # standard error is log.txt
            job.log("failed", message=f"{type(error).__name__}: {error} (more in {job.log_file})")
            return 1
        else:
            job.log("finished", message=message)
    return 0

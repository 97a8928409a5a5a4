"""A first-come, first-served GPU queue made of lock files: one job of a workspace computes, the others wait.

<workspace>/turns/
    guard                   held while anybody looks at the queue or changes it
    00000007.runs.cats-1    a ticket: held by the process of runs/cats-1 for as long as that waits or works

A ticket counts while its file is locked, and the system lets go of it however its process ends: nobody waits for the
dead, and no face needs to be there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ..atomic_files import explain_disk_full

_POLL_SECONDS = 0.5
_TICKET = re.compile(r"(\d{8,})\.(runs|tasks)\.(.+)", re.DOTALL)
_TITLES = {
    "generate": "the generation of candidates",
    "compare": "the generation of a comparison",
    "sweep": "the generation of a strength sweep",
    "targets": "the generation of rejected pictures",
    "rate": "the rating of pairs",
    "curve": "the trainings on fewer pairs",
    "comfyui": "the image generation in ComfyUI",
}
"""Of a task, by its kind."""


@contextmanager
def acquire_gpu(
    workspace: Path, folder: Path, on_wait: Callable[[str], None], check: Callable[[], None]
) -> Iterator[None]:
    """Wait until the device is free, and keep it until the `with` ends. Call it before torch is imported.

    folder: of the job, <workspace>/runs/NAME or <workspace>/tasks/NAME. on_wait: is called with the title of the job
    that has the device, whenever that is another; not at all where the device is free. check: is called while waiting,
    and whatever it raises ends the wait.
    """
    with enqueue(workspace, folder) as ticket:
        title = None
        while before := _before(ticket.parent, ticket):
            # The one that works, not the one just ahead: that is what a person can look at or stop.
            if title != (title := job_title(before[0].folder)):
                on_wait(title)
            check()
            time.sleep(_POLL_SECONDS)
        yield


@contextmanager
def enqueue(workspace: Path, folder: Path) -> Iterator[Path]:
    """Let whoever comes later wait until the `with` ends, without waiting for those who came before. Gives the ticket.

    For a host that uses the device itself. folder: as in `acquire_gpu`; it need not be there.
    """
    queue = workspace / "turns"
    with explain_disk_full(queue):
        queue.mkdir(parents=True, exist_ok=True)
        ticket, held = _take(queue, folder)
    try:
        yield ticket
    finally:
        with _guard(queue):
            held.release()
            ticket.unlink(missing_ok=True)


def queued(workspace: Path) -> tuple[Path, ...]:
    """The folders of the jobs that have the device or wait for it, the one that has it first."""
    queue = workspace / "turns"
    if not queue.is_dir():
        return ()
    with _guard(queue):
        return tuple(ticket.folder for ticket in _alive(queue))


def job_title(folder: Path) -> str:
    """A job as a sentence names it, by its folder."""
    if folder.parent.name == "runs":
        return f"the training {folder.name}"
    return _TITLES.get(folder.name.partition("-")[0], f"the task {folder.name}")


@dataclass(frozen=True, order=True)
class _Ticket:
    number: int
    file: Path
    folder: Path


def _take(queue: Path, folder: Path) -> tuple[Path, FileLock]:
    with _guard(queue):
        number = max((ticket.number for ticket in _tickets(queue)), default=0) + 1
        ticket = queue / f"{number:08d}.{folder.parent.name}.{folder.name}"
        held = FileLock(ticket)
        held.acquire()
    return ticket, held


def _before(queue: Path, own: Path) -> list[_Ticket]:
    with _guard(queue):
        return _alive(queue, until=own)


def _alive(queue: Path, until: Path | None = None) -> list[_Ticket]:
    """The tickets whose processes live, up to the one at `until`; those of the dead are cleared away."""
    alive = []
    for ticket in _tickets(queue):
        if ticket.file == until:
            break
        try:
            with FileLock(ticket.file, timeout=0):
                pass
            ticket.file.unlink(missing_ok=True)
        except Timeout:
            alive.append(ticket)
    return alive


def _tickets(queue: Path) -> list[_Ticket]:
    matches = [(file, _TICKET.fullmatch(file.name)) for file in queue.iterdir()]
    return sorted(_Ticket(int(match[1]), file, queue.parent / match[2] / match[3]) for file, match in matches if match)


def _guard(queue: Path) -> FileLock:
    return FileLock(queue / "guard")

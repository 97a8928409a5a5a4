"""Who may use the device? One run or task of a workspace at a time; the others wait in the order in which they came.

<workspace>/turns/
    guard                   held while anybody looks or changes the line
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

from ..atomic_files import no_room_explained

_POLL_SECONDS = 0.5
_TICKET = re.compile(r"(\d{8,})\.(runs|tasks)\.(.+)", re.DOTALL)
_WORK = {
    "generate": "the painting of candidates",
    "compare": "the painting of a comparison",
    "sweep": "the painting of a sweep",
    "rate": "the rating of pairs",
    "curve": "the trainings on fewer pairs",
    "comfyui": "the painting in ComfyUI",
}


@contextmanager
def wait_for_turn(
    workspace: Path, folder: Path, tell: Callable[[str], None], check: Callable[[], None]
) -> Iterator[None]:
    """Wait until the device is free, and keep it until the `with` ends. Call it before torch is imported.

    folder: of the run or the task, <workspace>/runs/NAME or <workspace>/tasks/NAME. tell: is called with what is in
    front, in words, whenever that changes; not at all where nothing is. check: is called while waiting, and whatever it
    raises ends the wait.
    """
    with place_in_line(workspace, folder) as ticket:
        told = None
        while before := _before(ticket.parent, ticket):
            # The one that works, not the one just ahead: that is what a person can look at or stop.
            if told != (told := in_words(before[0].folder)):
                tell(told)
            check()
            time.sleep(_POLL_SECONDS)
        yield


@contextmanager
def place_in_line(workspace: Path, folder: Path) -> Iterator[Path]:
    """Let whoever comes later wait until the `with` ends, without waiting for those who came before. Gives the ticket.

    For a host that uses the device itself. folder: as in `wait_for_turn`; it need not be there.
    """
    line = workspace / "turns"
    with no_room_explained(line):
        line.mkdir(parents=True, exist_ok=True)
        ticket, held = _take(line, folder)
    try:
        yield ticket
    finally:
        with _guard(line):
            held.release()
            ticket.unlink(missing_ok=True)


def line_of(workspace: Path) -> tuple[Path, ...]:
    """The folders of the runs and tasks that have the device or wait for it, the one that has it first."""
    line = workspace / "turns"
    if not line.is_dir():
        return ()
    with _guard(line):
        return tuple(ticket.folder for ticket in _alive(line))


def in_words(folder: Path) -> str:
    """A run or a task as a sentence names it."""
    if folder.parent.name == "runs":
        return f"the training {folder.name}"
    return _WORK.get(folder.name.partition("-")[0], f"the task {folder.name}")


@dataclass(frozen=True, order=True)
class _Ticket:
    number: int
    file: Path
    folder: Path


def _take(line: Path, folder: Path) -> tuple[Path, FileLock]:
    with _guard(line):
        number = max((ticket.number for ticket in _tickets(line)), default=0) + 1
        ticket = line / f"{number:08d}.{folder.parent.name}.{folder.name}"
        held = FileLock(ticket)
        held.acquire()
    return ticket, held


def _before(line: Path, own: Path) -> list[_Ticket]:
    with _guard(line):
        return _alive(line, until=own)


def _alive(line: Path, until: Path | None = None) -> list[_Ticket]:
    """The tickets whose processes live, up to the one at `until`; those of the dead are cleared away."""
    alive = []
    for ticket in _tickets(line):
        if ticket.file == until:
            break
        try:
            with FileLock(ticket.file, timeout=0):
                pass
            ticket.file.unlink(missing_ok=True)
        except Timeout:
            alive.append(ticket)
    return alive


def _tickets(line: Path) -> list[_Ticket]:
    found = [(file, _TICKET.fullmatch(file.name)) for file in line.iterdir()]
    return sorted(_Ticket(int(match[1]), file, line.parent / match[2] / match[3]) for file, match in found if match)


def _guard(line: Path) -> FileLock:
    return FileLock(line / "guard")

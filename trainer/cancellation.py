"""Cancellation: a run is asked to stop by a signal, or by a file in its folder."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

_SIGNALS = [signal.SIGINT, signal.SIGTERM]


class Cancelled(Exception):
    """Raised where work that keeps nothing but caches is left early."""


class StopRequest:
    """Whether the run was asked to stop. True once a signal came or the file exists; a step in progress is finished."""

    def __init__(self, file: Path, *, patient: bool = False):
        """patient: a second Ctrl-C does not interrupt; torchrun passes on a signal that the terminal sent to all."""
        self._file = file
        self._patient = patient
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None or self._file.exists()

    @property
    def exit_code(self) -> int:
        """Of a process that stopped for this: what shells expect after a signal, 0 where a face asked by the file."""
        return 0 if self.signal is None else 128 + self.signal

    def check(self) -> None:
        """Raise Cancelled if the run was asked to stop."""
        if self:
            raise Cancelled

    @contextmanager
    def listening(self, forget: bool = True) -> Iterator[None]:
        """Take SIGINT (Ctrl-C) and SIGTERM as requests; a second Ctrl-C interrupts at once, as usual.

        forget: a file that is there already was left from the stop before a resume.
        """
        if forget:
            with suppress(FileNotFoundError):
                self._file.unlink()
        if threading.current_thread() is not threading.main_thread():
            yield  # Python gives signals to the main thread only; the file still works
            return
        before = {number: signal.signal(number, self._take) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT and not self._patient:
            raise KeyboardInterrupt
        self.signal = number

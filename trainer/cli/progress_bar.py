"""Progress bar of a run in the terminal, with the time that remains; plain lines where the output is a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from ..runs.event_log import Event, Listener
from ..services.run_progress import ENCODING_PHASES
from ..text import format_duration, format_interval

_COPYING = ("importing", "exporting")
_QUIET_SECONDS = 10.0
_NARROW = 60
"""Columns of a terminal; below, there is no room for a bar beside the numbers."""


@contextmanager
def watching() -> Iterator[Listener]:
    """A listener for the events of a run that shows them on standard error."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _Lines()
        return
    # Not rich's TimeRemainingColumn: it would count the steps of before a resume and the evaluations into its speed.
    columns = (
        SpinnerColumn(),
        _ShrinkingColumn("{task.description}"),
        *([BarColumn(bar_width=max(4, min(28, console.width - 96)))] if console.width >= _NARROW else []),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        _ShrinkingColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield _Bar(progress)


class _ShrinkingColumn(TextColumn):
    """Text that ends in an ellipsis where the terminal is narrow, so that the step number stays whole."""

    def __init__(self, text_format: str):
        super().__init__(text_format, table_column=Column(no_wrap=False))  # rich shrinks only columns that may wrap

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


class _Bar:
    """A bar for each phase of the run; lasting lines are printed above it."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self._tasks: dict[str, int] = {}
        self._agreement = ""

    def __call__(self, event: Event) -> None:
        kind = event["event"]
        if kind == "encoding":
            self._show(ENCODING_PHASES[event["phase"]], event["done"], event["total"], "")
        elif kind in _COPYING:
            self._show(kind, event["done"], event["total"], "")
        elif kind == "progress":
            self._show(event["what"], event["done"], event["total"], "")
        elif kind == "started":
            self._steps = event["steps"]
            self._show("training", 0, self._steps, "")
        elif kind == "step":
            left = format_duration(event["remaining"])
            self._show(
                "training", event["step"], self._steps, f"{left} left  loss {event['loss']:.4f}{self._agreement}"
            )
        elif line := _sentence(event):
            if kind == "evaluation":
                self._agreement = f"  agreement {_agreement(event)}"
            self._progress.console.print(line, markup=False)

    def _show(self, phase: str, done: int, total: int | None, note: str) -> None:
        if phase not in self._tasks:
            self._tasks[phase] = self._progress.add_task(phase, total=total, note="")
        self._progress.update(self._tasks[phase], completed=done, total=total, note=note)


class _Lines:
    """Plain lines; of events that only move a bar, at most a line in ten seconds."""

    def __init__(self) -> None:
        self._last = -_QUIET_SECONDS
        self._steps = 0

    def __call__(self, event: Event) -> None:
        kind = event["event"]
        if kind == "started":
            self._steps = event["steps"]
        if kind in ("encoding", "progress", "step", *_COPYING):
            if time.monotonic() - self._last < _QUIET_SECONDS:
                return
            self._last = time.monotonic()
            if kind == "progress":
                self._print(f"{event['what']}: {event['done']} of {event['total']}")
            elif kind in _COPYING:
                self._print(f"{kind}: {event['done']} of {event['total'] or 'an unknown number'}")
            elif kind == "encoding":
                self._print(f"{ENCODING_PHASES[event['phase']]}: {event['done']} of {event['total']}")
            else:
                left = format_duration(event["remaining"])
                self._print(f"step {event['step']} of {self._steps}, {left} left, loss {event['loss']:.4f}")
        elif line := _sentence(event):
            self._print(line)

    def _print(self, line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def _sentence(event: Event) -> str | None:
    """The line that is printed for this event; None where it only moves the bar."""
    match event["event"]:
        case "warning":
            return f"note: {event['text']}"
        case "waiting":
            return f"waiting for its turn: {event['waiting_for']} has the device"
        case "resumed":
            return f"going on after step {event['step']}"
        case "started":
            cached = f"; {event['reused']} cache entries reused" if event["reused"] else ""
            return f"{event['pairs']} pairs to train on, {event['held_out']} held out{cached}"
        case "calibrated":
            knobs = f"temperature {event['temperature']:.3g}, margin weight {event['margin_weight']:.3g}"
            return f"{knobs}: from how far apart the base's errors on your pairs are"
        case "evaluation":
            return (
                f"step {event['step']}: agrees with you on {_agreement(event)} of {event['pairs']} pairs "
                "it has not trained on; "
                f"chosen error {event['chosen_error']:.4f}, rejected error {event['rejected_error']:.4f}"
            )
    return None


def _agreement(event: Event) -> str:
    return format_interval(event["agreement"], event["low"], event["high"])

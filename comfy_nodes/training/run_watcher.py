"""Run watcher: tells the pages of runs that change and end, whoever started them: side bar, studio, command line."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .run_list import Row, RunList

if TYPE_CHECKING:
    from ...trainer.runs.run_folder import Run

log = logging.getLogger(__name__)

_EVERY_SECONDS = 2.0
_watching: set[asyncio.Task[None]] = set()
_attended: set[Path] = set()


def attend(run: Run) -> None:
    """A node waits for `run`: it reports how that ends and copies the LoRA, so the watcher need not."""
    _attended.add(run.folder.resolve())


def unattend(run: Run) -> None:
    """`run` goes on without a node."""
    _attended.discard(run.folder.resolve())


class Watcher:
    """Looks at a workspace's runs again and again, and tells what is new since. What had ended before that is old."""

    def __init__(
        self, runs: RunList, tell: Callable[[str, dict[str, Any]], None], install: Callable[[Run], str]
    ) -> None:
        """tell: sends an event to all pages. install: copies a LoRA into ComfyUI's list; may raise UserError."""
        self._runs, self._tell, self._install = runs, tell, install
        self._workspace: Path | None = None
        self._seen: dict[str, Row] = {}
        self._polled = 0.0

    def poll(self, workspace: Path) -> None:
        """Read the runs and tell the pages what is new since the last time."""
        now, rows = time.time(), self._runs.rows(workspace)
        known = workspace == self._workspace
        before = list(self._seen.values()) if known else []
        ended = [row for row in reversed(rows) if known and self._has_just_ended(row)]
        # Stored before the pages are told: an error in telling must not repeat for ever.
        self._workspace, self._seen, self._polled = workspace, {row.name: row for row in rows}, now
        if rows != before:
            self._tell("mapo.runs", {"runs": [asdict(row) for row in rows]})
        for row in ended:
            if (workspace / "runs" / row.name).resolve() not in _attended:
                self._end(workspace, row)

    def _has_just_ended(self, row: Row) -> bool:
        was = self._seen.get(row.name)
        if not row.has_ended:
            return False
        if was is None:  # started and ended since the last look; else it was only renamed, or brought from elsewhere
            return row.changed >= self._polled
        return not was.has_ended or (was.phase, was.step) != (row.phase, row.step)

    def _end(self, workspace: Path, row: Row) -> None:
        from ...trainer.errors import UserError
        from ...trainer.runs.run_folder import Run

        run = Run(workspace / "runs" / row.name)
        text = sentence(run, row)
        if row.phase == "finished":
            try:
                self._install(run)
            except UserError as error:
                text += f" It could not be copied into ComfyUI's list: {error}."
        self._tell("mapo.ended", {"name": row.name, "phase": row.phase, "sentence": text})


def sentence(run: Run, row: Row) -> str:
    """What a run that has ended came to."""
    from ...trainer.errors import UserError
    from ...trainer.reports.summary import headline, summarize_run

    if row.phase == "finished":
        try:
            summary = summarize_run(run)
            return " ".join(filter(None, [f"{headline(summary)}.", summary.reason]))
        except UserError:  # its settings were damaged since
            return f"{row.name} is finished."
    done = f"at step {row.step} of {row.steps}" if row.step else "before the first step"
    if row.phase == "stopped":
        return f"{row.name} was stopped {done}{': what it learned is saved' if row.step else ''}."
    if row.phase == "failed":
        return f"{row.name} failed {done}: {(row.message or 'it left no message').rstrip('. ')}."
    return f"{row.name} ended unexpectedly {done}: you can resume it."


def start_watching(watcher: Watcher, workspace: Callable[[], Path], pages: Callable[[], set[str]]) -> None:
    """Watch from now on. To be called on the event loop."""
    task = asyncio.get_running_loop().create_task(watch(watcher, workspace, pages))
    _watching.add(task)  # the loop itself would let go of it


async def watch(watcher: Watcher, workspace: Callable[[], Path], pages: Callable[[], set[str]]) -> None:
    """Look for as long as ComfyUI lives, while a page is there. All that waits for the disk is done in threads."""
    last_error = ""
    while True:
        await asyncio.sleep(_EVERY_SECONDS)
        if not pages():
            continue
        try:
            await asyncio.to_thread(lambda: watcher.poll(workspace()))
            last_error = ""
        except Exception as error:
            # Once: a disk that is gone would fill the log.
            if last_error != (last_error := str(error)):
                log.warning("MaPO: the runs cannot be watched", exc_info=True)

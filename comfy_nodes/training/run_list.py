"""Run list: the runs of the workspace and the status of each, for the page, whoever started them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...trainer.runs.run_folder import Run

_MOST = 100
_ENDED = ("finished", "stopped", "failed", "died")


@dataclass(frozen=True)
class Row:
    """One run, as the page's JSON has it. The first fields are those of jobs.job.Status.

    phase: see `page_phase`. step of steps are done. behind: what has the device while the run waits for it, or "".
    dataset: "" where it was trained on files. base: the name of the file or folder. lora: its name in ComfyUI's list,
    None where it is not there. changed: time of its newest event, in seconds since 1970.
    """

    name: str
    phase: str
    step: int
    steps: int
    seconds_left: float | None
    agreement: float | None
    agreement_low: float | None
    agreement_high: float | None
    agreement_pairs: int | None
    message: str | None
    behind: str
    dataset: str
    base: str
    lora: str | None
    changed: float

    @property
    def has_ended(self) -> bool:
        return self.phase in _ENDED


class RunList:
    """Reads the runs of a workspace again and again, those that have ended only once. Safe for any thread."""

    def __init__(self, listed: Callable[[Run], str | None]) -> None:
        """listed: the name of a run's LoRA in ComfyUI's list, None where it is not there."""
        self._listed = listed
        self._known: dict[Path, tuple[object, Row]] = {}
        self._reading = threading.Lock()

    def rows(self, workspace: Path) -> list[Row]:
        """The newest first."""
        if not (workspace / "runs").is_dir():
            return []
        from ...trainer.runs.run_folder import all_runs

        with self._reading:
            runs = all_runs(workspace)[:_MOST]
            self._known = {run.folder: self._entry(run) for run in runs}
            return [row for _, row in self._known.values()]

    def _entry(self, run: Run) -> tuple[object, Row]:
        # Taken before the run is read: an event in between is seen the next time.
        stamp = (*(_stamp(file) for file in (run.events_file, run.settings_file)), self._listed(run))
        before = self._known.get(run.folder)
        if before and before[0] == stamp and before[1].has_ended:
            return before
        return stamp, _row(run, stamp[-1])


def page_phase(phase: str) -> str:
    """A phase of jobs.job.Status by the name that the page's JSON has for it."""
    return "died" if phase == "crashed" else phase


def _row(run: Run, lora: str | None) -> Row:
    from ...trainer.config.dataset_uri import dataset_named
    from ...trainer.errors import UserError
    from ...trainer.jobs.job import Job, Status

    dataset = base = ""
    try:
        config = run.config()
        dataset, base = dataset_named(config.data.pairs) or "", Path(config.base).name
        status = Job(run.folder).status()
    except (UserError, OSError, ValueError, KeyError, TypeError) as error:  # one damaged folder hides no other
        status = Status("failed", message=f"this run cannot be read: {error}")
    newest = max(_stamp(file)[0] for file in (run.events_file, run.settings_file))
    return Row(
        name=run.name,
        phase=page_phase(status.phase),
        step=status.done,
        steps=status.total,
        seconds_left=status.seconds_left,
        agreement=status.agreement,
        agreement_low=status.agreement_low,
        agreement_high=status.agreement_high,
        agreement_pairs=status.agreement_pairs,
        message=status.message or None,
        behind=status.waiting_for,
        dataset=dataset,
        base=base,
        lora=lora,
        changed=newest / 1e9,
    )


def _stamp(file: Path) -> tuple[int, int]:
    """(time in nanoseconds, bytes) of a file, zeros where it is not there."""
    try:
        facts = file.stat()
    except OSError:
        return 0, 0
    return facts.st_mtime_ns, facts.st_size

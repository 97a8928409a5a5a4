"""Run folder: the files of a training run, its lock, and its events.

<workspace>/runs/<name>/
    run.toml            the settings, complete
    events.jsonl        one JSON object a line, see Run.log
    made-from           digest of its settings, see find_run.py
    state/              checkpoints that a killed run resumes from, see checkpoint.py
    samples/            validation images, see validation_images.py
    <name>.safetensors  the LoRA
    report.html         what was learned, for a person
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..atomic_files import explain_disk_full, write_text
from ..config.run_config import RunConfig, read_config, write_config
from ..errors import UserError
from . import event_log
from .event_log import Event

_LOCK_SECONDS = 1.0
"""Whoever asks whether a run is alive holds its lock for a moment: that is no reason to leave."""


@dataclass(frozen=True)
class Run:
    """One training run on disk. `listeners` are called with every event after it has been written.

    writes: False in all but the first of several processes that train it together: they log no events.
    """

    folder: Path
    writes: bool = field(default=True, compare=False)
    listeners: list[Callable[[Event], None]] = field(default_factory=list, compare=False)

    @classmethod
    def create(cls, workspace: Path, config: RunConfig, parent: str = "runs") -> Run:
        """Make the folder of a new run. Raises UserError where a run of that name exists.

        parent: the folder of the workspace that it is made in; on another than "runs" no face lists it.
        """
        run = cls(workspace / parent / config.checked().name)
        with explain_disk_full(run.folder):
            run.folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                run.folder.mkdir()
            except FileExistsError:
                raise UserError(
                    f"a run named {run.name} exists in {run.folder.parent}: "
                    f"choose another --name, or resume it by `mapo resume {run.name}`"
                ) from None
        write_text(run.settings_file, write_config(config.with_whole_paths()))
        return run

    @classmethod
    def open(cls, workspace: Path, name: str) -> Run:
        """An existing run. Raises UserError naming the runs that there are."""
        run = cls(workspace / "runs" / name)
        if not run.settings_file.is_file():
            there = ", ".join(other.name for other in all_runs(workspace)) or "none"
            raise UserError(f"there is no run named {name} in {run.folder.parent} (there: {there})")
        return run

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def workspace(self) -> Path:
        return self.folder.parent.parent

    @property
    def settings_file(self) -> Path:
        return self.folder / "run.toml"

    @property
    def events_file(self) -> Path:
        return self.folder / "events.jsonl"

    @property
    def state_folder(self) -> Path:
        return self.folder / "state"

    @property
    def samples_folder(self) -> Path:
        return self.folder / "samples"

    @property
    def lora_file(self) -> Path:
        return self.folder / f"{self.name}.safetensors"

    @property
    def report_file(self) -> Path:
        return self.folder / "report.html"

    @property
    def stop_file(self) -> Path:
        """Its existence asks the run to save and stop: the one request that works on every system."""
        return self.folder / "stop"

    @property
    def lock_file(self) -> Path:
        """Locked by the process that trains, for as long as it is alive."""
        return self.folder / "lock"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's lock; it is gone when this process is, however that ends. Raises UserError if it is taken."""
        try:
            with explain_disk_full(self.lock_file), FileLock(self.lock_file, timeout=_LOCK_SECONDS):
                yield
        except Timeout:
            raise UserError(f"{self.name} is being trained by another process: wait for it, or stop it first") from None

    def config(self) -> RunConfig:
        return read_config(self.settings_file)

    def save_config(self, config: RunConfig) -> None:
        """Write run.toml: from now on the run is trained with `config`."""
        write_text(self.settings_file, write_config(config))

    def has_begun(self) -> bool:
        """Whether it holds anything that would be missed: its first step was taken, or about to be."""
        return any(event["event"] == "started" for event in self.events())

    def log(self, event: str, **values: Any) -> None:
        """Append an event and call the listeners with it.

        requested, waiting, acquired, started, resumed, encoding, calibrated, step, evaluation, sample, checkpoint,
        warning, stopped, failed, finished; `time`: seconds since 1970. A number that is not finite is written as null,
        as JSON wants it.
        """
        if not self.writes:
            return
        line = event_log.append(self.events_file, event, values)
        for listener in self.listeners:
            listener(line)

    def events(self) -> Iterator[Event]:
        """All events so far, the oldest first; steps that were taken again after a resume only as last taken."""
        lines: list[Event] = []
        for line in event_log.read(self.events_file):
            if line.get("event") == "resumed":
                lines = [event for event in lines if _still_holds(event, line["step"])]
            lines.append(line)
        yield from lines


def _still_holds(event: Event, resumed: int) -> bool:
    """Whether an event is part of the run's course after it went on from step `resumed`.

    What was measured at the very step of a state was measured before it was saved; from step 0 all is done again.
    """
    step = event.get("step")
    return step is None or step < resumed or step == resumed > 0


def all_runs(workspace: Path) -> list[Run]:
    """Every run of a workspace, the newest first."""
    settings = (workspace / "runs").glob("*/run.toml")
    return [Run(file.parent) for file in sorted(settings, key=lambda file: file.stat().st_mtime, reverse=True)]

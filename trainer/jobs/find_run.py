"""Runs found by what they train: the same training asked for again is reused or resumed, never trained twice.

A training is known by what decides how it comes out: the judged pairs, the base and the settings, but not its name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Literal

from ..atomic_files import write_text
from ..config.renamed_keys import former_keys
from ..config.run_config import RunConfig
from ..errors import UserError
from ..preferences.io.detect_layout import open_pairs
from ..runs import event_log
from ..runs.run_folder import Run, all_runs
from .job import Job

RunState = Literal["new", "resumed", "running", "finished"]

_DIGEST_FILE = "made-from"
_NO_PART_OF_IT = {"name": True, "tokenizers": True, "data": {"pairs", "workers"}, "training": {"device", "auto"}}


@dataclass(frozen=True)
class RunHandle:
    """A run that was found or started. process: where this process started it."""

    run: Run
    state: RunState
    process: Popen[bytes] | None = None


def find_or_start(
    workspace: Path, config: RunConfig, before: Callable[[RunState], None] = lambda state: None
) -> RunHandle:
    """The run that trains what `config` says: a finished one, a running one, a resumed one, or a new one.

    A new one is called `config.name`. Neither is followed by a rating. before: is called, unless it is finished, with
    the state that it will have; nothing is started where it raises. Raises UserError where there are no pairs, the name
    is taken, or the run was asked to stop and still saves.
    """
    workspace = workspace.resolve()
    digest = training_digest(workspace, config)
    run = find_run(workspace, digest)
    state = _state_of(run)
    if run and state == "finished":
        return RunHandle(run, state)
    before(state)
    if run and state == "running":
        return RunHandle(run, state)
    if run is None:
        run = Run.create(workspace, config)
        write_digest(run, digest)
    return RunHandle(run, state, Job(run.folder).resume(rating=False))


def find_run(workspace: Path, digest: str) -> Run | None:
    """The run of that digest that is furthest: finished with its LoRA still there, running, or to be resumed."""
    same = (run for run in all_runs(workspace) if read_digest(run) == digest)
    best = min(_by_worth(same), key=lambda ranked: ranked[0], default=None)
    return best[1] if best else None


def training_digest(workspace: Path, config: RunConfig) -> str:
    """What a training is known by. Reads the pairs, and of the files that it begins with their sizes and times.

    Raises UserError where the pairs cannot be read.
    """
    own = config.data.rejected_captions == "own"
    pairs = open_pairs(config.data.pairs, config.data.bad_pairs, workspace, own_captions=own).load()
    settings = config.with_whole_paths().model_dump(mode="json", exclude=_NO_PART_OF_IT)  # type: ignore[arg-type]
    facts = {
        "pairs": pairs.fingerprint,
        "settings": former_keys(settings),
        "files": [list(_files(config.base)), list(_files(config.adapter.continue_from))],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def write_digest(run: Run, digest: str) -> None:
    """Keep with a run what it trains."""
    write_text(run.folder / _DIGEST_FILE, digest)


def read_digest(run: Run) -> str | None:
    """The `training_digest` that a run was started with; None where none was kept."""
    with suppress(OSError, UnicodeDecodeError):
        return (run.folder / _DIGEST_FILE).read_text(encoding="utf-8")
    return None


def _state_of(run: Run | None) -> RunState:
    if run is None:
        return "new"
    job = Job(run.folder)
    status = job.status()
    if status.phase == "finished":
        return "finished"
    if job.is_alive() and run.stop_file.exists():
        raise UserError(f"{run.name} was asked to stop and is saving what it learned: try again in a moment")
    # One without events was made just before a kill: nobody works at it.
    running = status.is_open and event_log.read_end(run.events_file)
    return "running" if running else "resumed"


def _by_worth(runs: Iterator[Run]) -> Iterator[tuple[int, Run]]:
    for run in runs:
        status = Job(run.folder).status()
        if status.phase != "finished":
            yield (1 if status.is_open else 2), run
        elif run.lora_file.is_file():
            yield 0, run


def _files(base: str | None) -> Iterator[tuple[str, int, int]]:
    """Of a file, or of every weight file in a folder: its name, size and time, by which another one is noticed."""
    path = Path(base or "").expanduser()
    if base and path.is_file():
        yield path.name, path.stat().st_size, path.stat().st_mtime_ns
    elif base and path.is_dir():
        for file in sorted(path.rglob("*.safetensors")):
            yield file.relative_to(path).as_posix(), file.stat().st_size, file.stat().st_mtime_ns

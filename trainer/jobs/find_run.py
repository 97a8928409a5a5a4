"""Was this very training begun before? Then its outcome is taken, or it is gone on with: nothing is trained twice.

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
from ..config.run_config import RunConfig
from ..errors import UserError
from ..preferences.io.detect_layout import open_pairs
from ..runs import event_log
from ..runs.run_folder import Run, all_runs
from . import job

How = Literal["new", "resumed", "at work", "finished"]

_FILE = "made-from"
_NO_PART_OF_IT = {"name": True, "tokenizers": True, "data": {"pairs", "workers"}, "training": {"device", "auto"}}


@dataclass(frozen=True)
class Begun:
    """A run that was found or begun. process: where this process started it."""

    run: Run
    how: How
    process: Popen[bytes] | None = None


def begin(workspace: Path, config: RunConfig, before: Callable[[How], None] = lambda how: None) -> Begun:
    """The run that trains what `config` says: a finished one, one that is at work, one that goes on, or a new one.

    A new one is called `config.name`. Neither is followed by a rating. before: is called, unless it is finished, with
    how it will be begun; nothing is where it raises. Raises UserError where there are no pairs, the name is taken, or
    the run was asked to stop and still saves.
    """
    workspace = workspace.resolve()
    digest = digest_of(workspace, config)
    run = found(workspace, digest)
    how = _how(run)
    if run and how == "finished":
        return Begun(run, how)
    before(how)
    if run and how == "at work":
        return Begun(run, how)
    if run is None:
        run = Run.create(workspace, config)
        write_text(run.folder / _FILE, digest)
    return Begun(run, how, job.resume(run, rating=False))


def found(workspace: Path, digest: str) -> Run | None:
    """The run of that digest that is furthest: finished with its LoRA still there, at work, or to be gone on with."""
    same = (run for run in all_runs(workspace) if _made_from(run) == digest)
    best = min(_by_worth(same), key=lambda one: one[0], default=None)
    return best[1] if best else None


def digest_of(workspace: Path, config: RunConfig) -> str:
    """What a training is known by. Reads the pairs, and of the files that it begins with their sizes and times.

    Raises UserError where the pairs cannot be read.
    """
    own = config.data.rejected_captions == "own"
    pairs = open_pairs(config.data.pairs, config.data.bad_pairs, workspace, own_captions=own).load()
    facts = {
        "pairs": pairs.fingerprint,
        "settings": config.with_whole_paths().model_dump(mode="json", exclude=_NO_PART_OF_IT),  # type: ignore[arg-type]
        "files": [list(_files(config.base)), list(_files(config.adapter.continue_from))],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _how(run: Run | None) -> How:
    if run is None:
        return "new"
    phase = job.status(run).phase
    if phase == "finished":
        return "finished"
    if job.is_alive(run) and run.stop_file.exists():
        raise UserError(f"{run.name} was asked to stop and is saving what it learned: try again in a moment")
    # One without events was made just before a kill: nobody works at it.
    at_work = phase in ("waiting", "running") and event_log.read_end(run.events_file)
    return "at work" if at_work else "resumed"


def _by_worth(runs: Iterator[Run]) -> Iterator[tuple[int, Run]]:
    for run in runs:
        phase = job.status(run).phase
        if phase != "finished":
            yield (1 if phase in ("waiting", "running") else 2), run
        elif run.lora_file.is_file():
            yield 0, run


def _made_from(run: Run) -> str | None:
    with suppress(OSError, UnicodeDecodeError):
        return (run.folder / _FILE).read_text(encoding="utf-8")
    return None


def _files(place: str | None) -> Iterator[tuple[str, int, int]]:
    """Of a file, or of every weight file in a folder: its name, size and time, by which another one is noticed."""
    path = Path(place or "").expanduser()
    if place and path.is_file():
        yield path.name, path.stat().st_size, path.stat().st_mtime_ns
    elif place and path.is_dir():
        for file in sorted(path.rglob("*.safetensors")):
            yield file.relative_to(path).as_posix(), file.stat().st_size, file.stat().st_mtime_ns

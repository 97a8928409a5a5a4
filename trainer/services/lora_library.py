"""LoRA library: look up, rename, copy to a host or delete a LoRA that was made here."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..atomic_files import atomic_write, explain_disk_full, write_text
from ..config.run_config import RunConfig, parse_config, write_config
from ..errors import UserError
from ..models.safetensors_file import read_header
from ..reports.report import write_report
from ..runs.run_folder import Run, all_runs

_BLOCK = 2**22
_OF_A_RUN = ("modelspec.title", "mapo.base_hash", "mapo.pairs_hash", "mapo.seed", "mapo.objective_knobs")
"""What every LoRA file of one run says alike."""


def copy_to(run: Run, folder: Path) -> Path:
    """Copy the LoRA of `run` into `folder`, whole or not at all, under its own name. Returns the copy.

    A copy that was made when the run had come less far is replaced; the same file there already is left. Raises
    UserError where there is no LoRA yet, the folder is missing, or another file of that name lies there.
    """
    lora = _lora(run)
    target = folder / lora.name
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: mend it in the settings")
    if target.exists():
        if filecmp.cmp(lora, target, shallow=False):
            return target
        if not _is_earlier(target, lora):
            raise UserError(f"{target} is another file of that name: rename this LoRA, or move that file away")
    with atomic_write(target) as part:
        shutil.copyfile(lora, part)
    return target


def rename(run: Run, name: str) -> Run:
    """Give `run`, its LoRA file and what that says of itself another name. Returns the run under it.

    It can still be resumed, and runs that go on from its LoRA still find it. Raises UserError while it runs, where the
    name is taken, or where it cannot be a file name.
    """
    config = parse_config({**run.config().model_dump(), "name": name}, "name").checked()
    new = Run(run.folder.with_name(name))
    if name == run.name:
        return run
    # On some disks Cats and cats are one folder: then it is the run itself that is found.
    if new.folder.exists() and not new.folder.samefile(run.folder):
        raise UserError(f"there is a run named {name} already: choose another name")
    with run.locked():
        # Wherever this is interrupted, the folder holds a LoRA of its own name.
        renamed = run.folder / new.lora_file.name
        if run.lora_file.is_file():
            _write_renamed(run.lora_file, renamed)
        _rewrite(run, config)
    # The lock was let go of: Windows moves no folder in which a file is open.
    with explain_disk_full(run.folder):
        run.folder.rename(new.folder)
    with suppress(FileNotFoundError):
        (new.folder / run.lora_file.name).unlink()
    for other in _going_on_from(run):
        settings = other.config()
        adapter = settings.adapter.model_copy(update={"continue_from": str(new.lora_file)})
        _rewrite(other, settings.model_copy(update={"adapter": adapter}))
    if new.report_file.exists():
        write_report(new)
    return new


def delete(run: Run) -> None:
    """Delete a run's folder with its LoRA; copies elsewhere, judgements and pictures stay.

    Raises UserError while it runs, or where a run that is not finished goes on from its LoRA.
    """
    with run.locked():
        for other in _going_on_from(run):
            if not any(event["event"] == "finished" for event in other.events()):
                raise UserError(f"{other.name} is not finished and goes on from this LoRA: delete that first")
    # Out of sight in one step: a run that is half there would be worse than one that is.
    gone = run.folder.with_name(f".{run.name}.deleted")
    with explain_disk_full(run.folder):
        shutil.rmtree(gone, ignore_errors=True)
        run.folder.rename(gone)
        (gone / "run.toml").unlink()
    shutil.rmtree(gone, ignore_errors=True)


def _lora(run: Run) -> Path:
    if not run.lora_file.is_file():
        raise UserError(f"{run.name} has no LoRA file yet: it is written when the training ends or is stopped")
    return run.lora_file


def _is_earlier(copy: Path, lora: Path) -> bool:
    """Whether `copy` is what the run of `lora` had learned some steps before."""
    try:
        before, now = read_header(copy).metadata, read_header(lora).metadata
        steps = [int(one["mapo.steps"]) for one in (before, now)]
    except (UserError, KeyError, ValueError):
        return False
    return steps[0] < steps[1] and all(name in now and before.get(name) == now[name] for name in _OF_A_RUN)


def _going_on_from(run: Run) -> Iterator[Run]:
    for other in all_runs(run.workspace):
        with suppress(UserError):
            given = other.config().adapter.continue_from
            if given and Path(given) == run.lora_file:
                yield other


def _rewrite(run: Run, config: RunConfig) -> None:
    """Change what run.toml says, but not its time: by that runs are the newer or the older ones."""
    made = run.settings_file.stat()
    write_text(run.settings_file, write_config(config))
    os.utime(run.settings_file, ns=(made.st_atime_ns, made.st_mtime_ns))


def _write_renamed(source: Path, target: Path) -> None:
    """The same tensors under a header that names `target`; nothing but the header is ever in memory."""
    header = read_header(source).header
    with source.open("rb") as old:
        old.seek(header.body)
        facts = dict(header.metadata)
        facts["modelspec.title"] = target.stem
        digest = facts.get("sshs_model_hash", "")
        facts["ss_output_name"] = f"{target.stem}-{digest[:8]}" if digest else target.stem
        with atomic_write(target) as part, part.open("wb") as new:
            new.write(header.encoded(facts))
            shutil.copyfileobj(old, new, _BLOCK)

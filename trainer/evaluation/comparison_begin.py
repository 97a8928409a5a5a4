"""How is a blind comparison begun: a LoRA against the base, or several against it and each other? For every face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from ..config.dataset_uri import dataset_named
from ..errors import UserError
from ..jobs.job import Job, all_jobs
from ..jobs.kind import start
from ..preferences.store import open_store
from ..runs.run_folder import Run
from ..sampling.task_settings import cleaned
from .comparison_filing import named, names
from .generate_comparison import COMPARE, known_prompts

MOST_PROMPTS = 24
"""Of those held out, where nobody names any: half an hour of judging would be too much to begin with."""


@dataclass(frozen=True)
class Begun:
    """A comparison that is being painted. trained_on: how many of its prompts its LoRA was trained on."""

    name: str
    job: Job
    trained_on: int


def begin(workspace: Path, settings: Mapping[str, Any]) -> Begun:
    """Start, or resume, the job that paints a comparison: see `comparing.ComparisonSettings`.

    What a LoRA's run knows is filled in: its dataset, and how its base is to be read. Without a name it gets a free
    one; one of the same name and settings that was stopped goes on. Raises UserError for what cannot be.
    """
    lora, against = str(settings.get("lora") or ""), str(settings.get("against") or "")
    if not lora:
        raise UserError("choose the LoRA to compare")
    run = run_of(workspace, lora)
    wanted = cleaned(settings.get("prompts") or ())
    given = {**settings, "prompts": wanted, **known_of(run, settings.get("base"))}
    trained_on = len(known_prompts(run).trained & set(wanted)) if run else 0
    if stopped := _stopped(workspace, given):
        stopped.resume()
        return Begun(str(given["name"]), stopped, trained_on)
    given["name"] = given.get("name") or free_name(workspace, lora, against)
    return Begun(given["name"], start(workspace, COMPARE, given), trained_on)


def contests(loras: Sequence[str], with_base: bool = True) -> list[tuple[str, str | None]]:
    """Who meets whom: (LoRA, what it is compared with), None for the base alone. Raises UserError where nobody does."""
    found: list[tuple[str, str | None]] = [(lora, None) for lora in loras] if with_base else []
    found += [(second, first) for first, second in combinations(loras, 2)]
    if not found:
        raise UserError("give at least one LoRA to compare with the base, or two to compare with each other")
    return found


def held_out_prompts(workspace: Path, loras: Sequence[str]) -> tuple[str, ...]:
    """Prompts that the first LoRA's run kept aside and no other's was trained on; () where nobody knows any."""
    runs = [run for lora in loras if (run := run_of(workspace, lora)) is not None]
    if not runs:
        return ()
    trained = {prompt for run in runs for prompt in known_prompts(run).trained}
    return tuple(prompt for prompt in known_prompts(runs[0]).held_out if prompt not in trained)[:MOST_PROMPTS]


def run_of(workspace: Path, lora: str) -> Run | None:
    """The run of this workspace that a LoRA file is of."""
    folder = Path(lora or ".").parent
    if folder.parent != workspace / "runs" or Path(lora).stem != folder.name:
        return None
    run = Run(folder)
    return run if run.settings_file.is_file() else None


def known_of(run: Run | None, base: str | None) -> dict[str, Any]:
    """What the settings of a LoRA's run say of how to paint with it; of its base only where that is the one used."""
    if run is None:
        return {}
    config = run.config()
    facts: dict[str, Any] = {"run": run.name, "dataset": dataset_named(config.data.pairs) or ""}
    if base == config.base:
        facts |= {"prediction": config.prediction, "tokenizers": config.tokenizers}
    return facts


def free_name(workspace: Path, lora: str, against: str = "") -> str:
    """A name that no dataset or comparison has."""
    with open_store(workspace).reading() as session:
        return next(name for name in names(lora, against) if named(session, name) is None)


def _stopped(workspace: Path, given: Mapping[str, Any]) -> Job | None:
    """The job that was asked for the very same and did not come to its end."""
    if not given.get("name"):
        return None
    for job in all_jobs(workspace, COMPARE.name):
        if job.status().can_resume and _same(job.settings(), given):
            return job
    return None


def _same(there: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    return all(there.get(name) == (list(value) if isinstance(value, tuple) else value) for name, value in given.items())

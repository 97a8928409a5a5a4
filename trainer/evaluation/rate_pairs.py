"""Which pairs are the most useful to judge next? A task that rates a dataset's unjudged pairs by a run's LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..errors import UserError
from ..preferences.datasets import find_dataset
from ..preferences.store import open_store
from ..runs.run_folder import Run
from ..sampling.task_settings import TaskSettings

if TYPE_CHECKING:
    from ..jobs.worker import Work


class RatingSettings(TaskSettings):
    """By which run which dataset is rated."""

    run: str = Field(min_length=1)
    """A run that has a LoRA."""
    dataset: str = Field(min_length=1)
    """Whose unjudged pairs are rated."""
    limit: int = Field(500, ge=1, le=100_000)
    """Pairs, the newest, at most."""


def check(workspace: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings whole. Raises UserError naming what is wrong or missing."""
    asked = RatingSettings.given(settings)
    run = Run.open(workspace, asked.run)
    if not run.lora_file.is_file():
        raise UserError(f"{run.name} has no LoRA yet: let it finish its training first")
    with open_store(workspace).reading() as session:
        if find_dataset(session, asked.dataset).kind == "comparison":
            raise UserError(f"{asked.dataset} is a comparison, whose pairs are all judged alike: choose a dataset")
    return asked.plain()


def run(work: Work) -> str:
    """Rate what is not rated yet."""
    from .pair_margins import rate

    asked = RatingSettings.given(work.settings)
    rated = rate(
        open_store(work.workspace),
        asked.dataset,
        Run.open(work.workspace, asked.run),
        limit=asked.limit,
        tell=work.tell,
    )
    return f"{rated} {'pair' if rated == 1 else 'pairs'} of {asked.dataset} rated by {asked.run}"

"""Is a LoRA better, blind? Both sides of a comparison are painted on the same seeds, for prompts not trained on."""

from __future__ import annotations

import filecmp
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field
from sqlalchemy import select

from ..config.dataset_uri import dataset_named, whole_path
from ..errors import UserError
from ..jobs.kind import JobContext, JobKind
from ..preferences.datasets import find_dataset, slices
from ..preferences.images import image_path, image_record
from ..preferences.pairs import normalize_prompt, split_hash
from ..preferences.schema import Dataset, ImageRecord, Prompt
from ..preferences.store import Store, open_store
from ..sampling.task_settings import GenerateSettings, cleaned, lora_file
from ..text import format_count
from .candidates import store_images
from .comparison import About
from .comparison_filing import Side, add_duel, add_side, open_comparison

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ..runs.run_folder import Run
    from ..sampling.batch_sampler import ImageRequest
    from ..sampling.image_metadata import Provenance


class ComparisonSettings(GenerateSettings):
    """What is compared with what."""

    name: str = Field(min_length=1, max_length=200)
    """Of the comparison: no dataset may have it."""
    lora: str = Field(min_length=1)
    """The LoRA file in question."""
    against: str | None = None
    """Another LoRA file; by default the base alone is what it is compared with."""
    strength: float = Field(1.0, ge=-10, le=10)
    """Of both LoRAs; 1 is as trained."""
    prompts: tuple[str, ...] = Field(min_length=1)
    """Those that were not trained on say what the LoRA learned; the others, what it remembers."""
    seeds: int = Field(1, ge=1, le=64)
    """Pairs for each prompt. More prompts tell more than more seeds."""
    run: str = ""
    """The run that the LoRA is of, if it is of one."""
    dataset: str = ""
    """What it was trained on: where the judgements may go afterwards."""


def check(workspace: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings whole, paths absolute. Raises UserError naming what is wrong or missing."""
    prompts = cleaned(settings.get("prompts") or ())
    if not prompts:
        raise UserError("give at least one prompt to compare on")
    asked = ComparisonSettings.given(
        {**settings, "prompts": prompts, "name": normalize_prompt(settings.get("name", ""))}
    )
    with open_store(workspace).reading() as session:
        if session.scalar(select(Dataset.id).where(Dataset.name == asked.name)) is not None:
            raise UserError(f"there is a dataset or comparison named {asked.name}: choose another name")
    lora, against = str(lora_file(asked.lora)), str(lora_file(asked.against)) if asked.against else None
    if against and (lora == against or filecmp.cmp(lora, against, shallow=False)):
        raise UserError(f"{lora} cannot be compared with itself: choose another LoRA, or the base")
    return asked.model_copy(update={"base": whole_path(asked.base), "lora": lora, "against": against}).plain()


def run(context: JobContext) -> str:
    """Paint what is not there yet. A pair can be judged as soon as both its pictures are painted."""
    from ..sampling.batch_sampler import BatchSampler, open_for_sampling
    from ..sampling.image_metadata import Provenance

    asked = ComparisonSettings.given(context.settings)
    store = open_store(context.workspace)
    base, sampling = open_for_sampling(asked)
    loras = [Path(file) for file in (asked.lora, asked.against) if file]
    provenance = Provenance.of(base, asked.base, sampling, loras)
    duels = [duel for prompt in asked.prompts for duel in _duels(asked, prompt)]
    requests = [request for duel in duels for request in duel]
    with store.writing() as session:
        comparison = _opened_comparison(session, asked, provenance, context.job.name)
        # Of other comparisons and of candidates too: the base is painted once for all LoRAs that meet it.
        there = _painted_before(session, store, {provenance.fingerprint(request) for request in requests})
        for duel in duels:
            _file(session, comparison, duel, [there.get(provenance.fingerprint(request)) for request in duel])
    left = [request for request in requests if provenance.fingerprint(request) not in there]
    done = len(requests) - len(left)
    context.report_progress(done, len(requests), "loading the base" if left else f"painting {asked.name}")
    duel_of = {request: duel for duel in duels for request in duel}
    for pictures in BatchSampler(base, sampling, loras).generate(left, context.check):
        files = store_images(store, provenance, pictures)
        with store.writing() as session:
            comparison = find_dataset(session, asked.name)
            for request, file, known in files:
                there[provenance.fingerprint(request)] = image_record(session, file, known)
            for duel in dict.fromkeys(duel_of[request] for request, _ in pictures):
                _file(session, comparison, duel, [there.get(provenance.fingerprint(request)) for request in duel])
        done += len(pictures)
        context.report_progress(done, len(requests), f"painting {asked.name}")
    return f"{asked.name} is painted: {format_count(len(duels), 'pair')} to judge"


COMPARE = JobKind("compare", check, run)


@dataclass(frozen=True)
class Known:
    """What a run knows of prompts. held_out: those it keeps aside, judged or not; trained: those it was trained on."""

    held_out: tuple[str, ...]
    trained: frozenset[str]


def known_prompts(run: Run) -> Known:
    """The prompts of a run's pairs, as they are now. Raises UserError where the pairs cannot be read any more."""
    from ..training.prepare_data import pairs_of

    config = run.config()
    data, judged = config.data, cleaned(pair.prompt for pair in pairs_of(config, run.workspace).pairs)
    every = judged
    if (name := dataset_named(data.pairs)) is not None:
        with open_store(run.workspace).reading() as session:
            dataset = find_dataset(session, name)
            every = tuple(
                session.scalars(select(Prompt.text).where(Prompt.dataset_id == dataset.id).order_by(Prompt.id))
            )
    return Known(
        held_out=tuple(prompt for prompt in every if split_hash(prompt) < data.held_out),
        trained=frozenset(prompt for prompt in judged if split_hash(prompt) >= data.held_out),
    )


def _duels(asked: ComparisonSettings, prompt: str) -> list[tuple[ImageRequest, ImageRequest]]:
    """For each seed what the LoRA is compared with, and the LoRA."""
    from ..sampling.batch_sampler import ImageRequest, LoraUse
    from ..sampling.image_metadata import seed_of

    other = LoraUse(Path(asked.against), asked.strength) if asked.against else None
    seeds = [seed_of(prompt, number, asked.first_seed) for number in range(asked.seeds)]
    lora = LoraUse(Path(asked.lora), asked.strength)
    return [(ImageRequest(prompt, seed, other), ImageRequest(prompt, seed, lora)) for seed in seeds]


def _opened_comparison(session: Session, asked: ComparisonSettings, provenance: Provenance, task: str) -> Dataset:
    """The task's own comparison, made if it is not there. Raises UserError where another's has its name."""
    told = About(
        run=asked.run,
        base=provenance.model,
        lora=Path(asked.lora).name,
        lora_sha256=provenance.hashes[Path(asked.lora)],
        against=Path(asked.against).name if asked.against else "",
        against_sha256=provenance.hashes[Path(asked.against)] if asked.against else "",
        strength=asked.strength,
        dataset=asked.dataset,
        task=task,
    )
    return open_comparison(session, asked.name, told, lambda there: there.task == task)


def _file(
    session: Session, comparison: Dataset, duel: tuple[ImageRequest, ImageRequest], pictures: list[ImageRecord | None]
) -> None:
    """Add what is painted of a duel, each picture on its side; a pair once both are there."""
    sides: tuple[Side, Side] = ("base", "lora")
    for request, picture, side in zip(duel, pictures, sides, strict=True):
        if picture is not None:
            add_side(session, comparison, request.prompt, picture, side)
    other, lora = pictures
    if other is not None and lora is not None:
        add_duel(session, comparison, duel[0].prompt, other, lora)


def _painted_before(session: Session, store: Store, marks: set[str]) -> dict[str, ImageRecord]:
    """The pictures of the workspace that were painted just so, by their marks, whose files are still there."""
    found: dict[str, ImageRecord] = {}
    for some in slices(sorted(marks)):
        for picture in session.scalars(select(ImageRecord).where(ImageRecord.source.in_(some))):
            if picture.source and image_path(store, picture).is_file():
                found[picture.source] = picture
    return found

"""Comparison job: starts a blind comparison and generates its images, both sides on the same seeds.

Its prompts are those that were not trained on, where nobody names others.
"""

from __future__ import annotations

import filecmp
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field
from sqlalchemy import select

from ..config.dataset_uri import dataset_named, whole_path
from ..errors import UserError
from ..jobs.job import Job, all_jobs
from ..jobs.kind import JobContext, JobKind, start
from ..preferences.datasets import find_dataset, slices
from ..preferences.images import image_path, image_record
from ..preferences.pairs import normalize_prompt, split_hash
from ..preferences.schema import Dataset, ImageRecord, Prompt
from ..preferences.store import Store, open_store
from ..runs.run_folder import Run
from ..sampling.task_settings import GenerateSettings, cleaned, lora_file
from ..text import format_count
from .candidates import store_images
from .comparison import (
    ComparisonInfo,
    Side,
    add_comparison_image,
    add_comparison_pair,
    find_named,
    open_comparison,
    suggest_names,
)

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
    comparison = ComparisonSettings.given(
        {**settings, "prompts": prompts, "name": normalize_prompt(settings.get("name", ""))}
    )
    with open_store(workspace).reading() as session:
        if session.scalar(select(Dataset.id).where(Dataset.name == comparison.name)) is not None:
            raise UserError(f"there is a dataset or comparison named {comparison.name}: choose another name")
    lora, against = str(lora_file(comparison.lora)), str(lora_file(comparison.against)) if comparison.against else None
    if against and (lora == against or filecmp.cmp(lora, against, shallow=False)):
        raise UserError(f"{lora} cannot be compared with itself: choose another LoRA, or the base")
    return comparison.model_copy(update={"base": whole_path(comparison.base), "lora": lora, "against": against}).plain()


def run(context: JobContext) -> str:
    """Generate what is not there yet. A pair can be judged as soon as both its images are there."""
    from ..sampling.batch_sampler import BatchSampler, open_for_sampling
    from ..sampling.image_metadata import Provenance

    settings = ComparisonSettings.given(context.settings)
    store = open_store(context.workspace)
    base, sampling = open_for_sampling(settings)
    loras = [Path(file) for file in (settings.lora, settings.against) if file]
    provenance = Provenance.of(base, settings.base, sampling, loras)
    duels = [duel for prompt in settings.prompts for duel in _duels(settings, prompt)]
    requests = [request for duel in duels for request in duel]
    with store.writing() as session:
        comparison = _opened_comparison(session, settings, provenance, context.job.name)
        # Of other comparisons and of candidates too: the base generates once for all LoRAs that meet it.
        there = _existing_images(session, store, {provenance.fingerprint(request) for request in requests})
        for duel in duels:
            _add_pair(session, comparison, duel, [there.get(provenance.fingerprint(request)) for request in duel])
    left = [request for request in requests if provenance.fingerprint(request) not in there]
    done = len(requests) - len(left)
    context.report_progress(done, len(requests), "loading the base" if left else f"painting {settings.name}")
    duel_of = {request: duel for duel in duels for request in duel}
    for images in BatchSampler(base, sampling, loras).generate(left, context.check):
        files = store_images(store, provenance, images)
        with store.writing() as session:
            comparison = find_dataset(session, settings.name)
            for request, file, known in files:
                there[provenance.fingerprint(request)] = image_record(session, file, known)
            for duel in dict.fromkeys(duel_of[request] for request, _ in images):
                _add_pair(session, comparison, duel, [there.get(provenance.fingerprint(request)) for request in duel])
        done += len(images)
        context.report_progress(done, len(requests), f"painting {settings.name}")
    return f"{settings.name} is painted: {format_count(len(duels), 'pair')} to judge"


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


def _duels(settings: ComparisonSettings, prompt: str) -> list[tuple[ImageRequest, ImageRequest]]:
    """For each seed what the LoRA is compared with, and the LoRA."""
    from ..sampling.batch_sampler import ImageRequest, LoraUse
    from ..sampling.image_metadata import seed_of

    other = LoraUse(Path(settings.against), settings.strength) if settings.against else None
    seeds = [seed_of(prompt, number, settings.first_seed) for number in range(settings.seeds)]
    lora = LoraUse(Path(settings.lora), settings.strength)
    return [(ImageRequest(prompt, seed, other), ImageRequest(prompt, seed, lora)) for seed in seeds]


def _opened_comparison(session: Session, settings: ComparisonSettings, provenance: Provenance, task: str) -> Dataset:
    """The task's own comparison, made if it is not there. Raises UserError where another's has its name."""
    info = ComparisonInfo(
        run=settings.run,
        base=provenance.model,
        lora=Path(settings.lora).name,
        lora_sha256=provenance.hashes[Path(settings.lora)],
        against=Path(settings.against).name if settings.against else "",
        against_sha256=provenance.hashes[Path(settings.against)] if settings.against else "",
        strength=settings.strength,
        dataset=settings.dataset,
        task=task,
    )
    return open_comparison(session, settings.name, info, lambda there: there.task == task)


def _add_pair(
    session: Session, comparison: Dataset, duel: tuple[ImageRequest, ImageRequest], images: list[ImageRecord | None]
) -> None:
    """Add what is generated of a duel, each image on its side; a pair once both are there."""
    sides: tuple[Side, Side] = ("base", "lora")
    for request, image, side in zip(duel, images, sides, strict=True):
        if image is not None:
            add_comparison_image(session, comparison, request.prompt, image, side)
    other, lora = images
    if other is not None and lora is not None:
        add_comparison_pair(session, comparison, duel[0].prompt, other, lora)


def _existing_images(session: Session, store: Store, fingerprints: set[str]) -> dict[str, ImageRecord]:
    """The images of the workspace that were generated just so, by their fingerprints, whose files are still there."""
    existing: dict[str, ImageRecord] = {}
    for some in slices(sorted(fingerprints)):
        for image in session.scalars(select(ImageRecord).where(ImageRecord.source.in_(some))):
            if image.source and image_path(store, image).is_file():
                existing[image.source] = image
    return existing


MAX_PROMPTS = 24
"""Of those held out, where nobody names any: half an hour of judging would be too much to begin with."""


@dataclass(frozen=True)
class StartedComparison:
    """A comparison that is being generated. trained_on: how many of its prompts its LoRA was trained on."""

    name: str
    job: Job
    trained_on: int


def start_comparison(workspace: Path, settings: Mapping[str, Any]) -> StartedComparison:
    """Start, or resume, the job that generates a comparison: see `ComparisonSettings`.

    What a LoRA's run knows is filled in: its dataset, and how its base is to be read. Without a name it gets a free
    one; one of the same name and settings that was stopped goes on. Raises UserError for what cannot be.
    """
    lora, against = str(settings.get("lora") or ""), str(settings.get("against") or "")
    if not lora:
        raise UserError("choose the LoRA to compare")
    run = run_of(workspace, lora)
    prompts = cleaned(settings.get("prompts") or ())
    job_settings = {**settings, "prompts": prompts, **known_settings(run, settings.get("base"))}
    trained_on = len(known_prompts(run).trained & set(prompts)) if run else 0
    if stopped := _stopped(workspace, job_settings):
        stopped.resume()
        return StartedComparison(str(job_settings["name"]), stopped, trained_on)
    job_settings["name"] = job_settings.get("name") or unused_comparison_name(workspace, lora, against)
    return StartedComparison(job_settings["name"], start(workspace, COMPARE, job_settings), trained_on)


def pairings(loras: Sequence[str], with_base: bool = True) -> list[tuple[str, str | None]]:
    """Who meets whom: (LoRA, what it is compared with), None for the base alone. Raises UserError where nobody does."""
    pairs: list[tuple[str, str | None]] = [(lora, None) for lora in loras] if with_base else []
    pairs += [(second, first) for first, second in combinations(loras, 2)]
    if not pairs:
        raise UserError("give at least one LoRA to compare with the base, or two to compare with each other")
    return pairs


def held_out_prompts(workspace: Path, loras: Sequence[str]) -> tuple[str, ...]:
    """Prompts that the first LoRA's run kept aside and no other's was trained on; () where nobody knows any."""
    runs = [run for lora in loras if (run := run_of(workspace, lora)) is not None]
    if not runs:
        return ()
    trained = {prompt for run in runs for prompt in known_prompts(run).trained}
    return tuple(prompt for prompt in known_prompts(runs[0]).held_out if prompt not in trained)[:MAX_PROMPTS]


def run_of(workspace: Path, lora: str) -> Run | None:
    """The run of this workspace that a LoRA file is of."""
    folder = Path(lora or ".").parent
    if folder.parent != workspace / "runs" or Path(lora).stem != folder.name:
        return None
    run = Run(folder)
    return run if run.settings_file.is_file() else None


def known_settings(run: Run | None, base: str | None) -> dict[str, Any]:
    """What the settings of a LoRA's run say of how to generate with it; of its base only where that is the one used."""
    if run is None:
        return {}
    config = run.config()
    facts: dict[str, Any] = {"run": run.name, "dataset": dataset_named(config.data.pairs) or ""}
    if base == config.base:
        facts |= {"prediction": config.prediction, "tokenizers": config.tokenizers}
    return facts


def unused_comparison_name(workspace: Path, lora: str, against: str = "") -> str:
    """A name that no dataset or comparison has."""
    with open_store(workspace).reading() as session:
        return next(name for name in suggest_names(lora, against) if find_named(session, name) is None)


def _stopped(workspace: Path, settings: Mapping[str, Any]) -> Job | None:
    """The job with the very same settings that did not come to its end."""
    if not settings.get("name"):
        return None
    for job in all_jobs(workspace, COMPARE.name):
        if job.status().can_resume and _same(job.settings(), settings):
            return job
    return None


def _same(there: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    return all(
        there.get(name) == (list(value) if isinstance(value, tuple) else value) for name, value in settings.items()
    )

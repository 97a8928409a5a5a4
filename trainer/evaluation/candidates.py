"""Candidate images: a few are generated for each prompt of a dataset, and paired to be judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field
from sqlalchemy import select

from ..config.dataset_uri import whole_path
from ..errors import UserError
from ..jobs.kind import JobContext, JobKind
from ..preferences.datasets import add_candidates, add_prompt, find_dataset, make_pairs
from ..preferences.images import ImageMetadata, StoredFile, image_record, store_image
from ..preferences.schema import Candidate, Dataset, ImageRecord, Prompt
from ..preferences.store import Store, open_store
from ..sampling.task_settings import GenerateSettings, cleaned, lora_file
from ..text import format_count

if TYPE_CHECKING:
    from PIL import Image
    from sqlalchemy.orm import Session

    from ..sampling.batch_sampler import ImageRequest
    from ..sampling.image_metadata import Provenance


class CandidateSettings(GenerateSettings):
    """What is generated for which prompts."""

    dataset: str = Field(min_length=1)
    """Its name; it must be there."""
    prompts: tuple[str, ...] = ()
    """By default every prompt that the dataset has."""
    candidates: int = Field(4, ge=1, le=64)
    """Images for each prompt, those counted that were generated so before."""
    at_most: int | None = Field(12, ge=1)
    """Pairs made for each prompt, at most: of 16 images there would be 120."""
    lora: str | None = None
    """A LoRA file to generate with."""
    strength: float = Field(1.0, ge=-10, le=10)
    """Of the LoRA; 1 is as trained."""
    mixed: bool = False
    """Generate every second candidate without the LoRA, so that its images are judged against the base's."""


def check(workspace: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings whole, paths absolute. Raises UserError naming what is wrong or missing."""
    candidates = CandidateSettings.given(settings)
    if candidates.mixed and not candidates.lora:
        raise UserError("half of the candidates with a LoRA: choose the LoRA")
    with open_store(workspace).reading() as session:
        dataset = find_dataset(session, candidates.dataset)
        prompts = cleaned(candidates.prompts)
        if not prompts and session.scalar(select(Prompt.id).where(Prompt.dataset_id == dataset.id).limit(1)) is None:
            raise UserError(f"{candidates.dataset} has no prompts yet: give at least one")
    paths = {"base": whole_path(candidates.base), "lora": str(lora_file(candidates.lora)) if candidates.lora else None}
    return candidates.model_copy(update={**paths, "prompts": prompts}).plain()


def run(context: JobContext) -> str:
    """Generate what is not there yet. Images are in the dataset as soon as they are generated, pairs with them."""
    from ..sampling.batch_sampler import BatchSampler, open_for_sampling
    from ..sampling.image_metadata import Provenance

    settings = CandidateSettings.given(context.settings)
    store = open_store(context.workspace)
    with store.reading() as session:
        dataset = find_dataset(session, settings.dataset)
        prompts = settings.prompts or _prompts_of(session, dataset)
        before = _generated_before(session, dataset)
    base, sampling = open_for_sampling(settings)
    loras = [Path(settings.lora)] if settings.lora else []
    provenance = Provenance.of(base, settings.base, sampling, loras)
    requests = [request for prompt in prompts for request in _requests(settings, prompt)]
    left = [request for request in requests if provenance.fingerprint(request) not in before]
    done, pairs = len(requests) - len(left), 0
    missing = Counter(request.prompt for request in left)
    unpaired: dict[str, None] = {}  # in order
    context.report_progress(done, len(requests), "loading the base")
    try:
        for images in BatchSampler(base, sampling, loras).generate(left, context.check):
            missing.subtract(request.prompt for request, _ in images)
            unpaired |= dict.fromkeys(request.prompt for request, _ in images)
            complete = [prompt for prompt in unpaired if not missing[prompt]]
            files = store_images(store, provenance, images)
            with store.writing() as session:
                dataset = find_dataset(session, settings.dataset)
                for request, file, metadata in files:
                    add_candidates(
                        session, add_prompt(session, dataset, request.prompt), [image_record(session, file, metadata)]
                    )
                pairs += _pair(session, dataset, complete, settings.at_most)
            for prompt in complete:
                del unpaired[prompt]
            done += len(images)
            context.report_progress(done, len(requests), f"generating for {settings.dataset}")
    finally:
        with store.writing() as session:
            pairs += _pair(session, find_dataset(session, settings.dataset), unpaired, settings.at_most)
    return f"{format_count(len(left), 'picture')} generated for {settings.dataset}, {format_count(pairs, 'new pair')}"


GENERATE = JobKind("generate", check, run)


def store_images(
    store: Store, provenance: Provenance, images: Iterable[tuple[ImageRequest, Image.Image]]
) -> list[tuple[ImageRequest, StoredFile, ImageMetadata]]:
    """Store images with how they were generated; gives what `image_record` takes when the records are written."""
    return [
        (
            request,
            store_image(store, provenance.png(request, image), f"the image of {request.prompt!r}"),
            provenance.metadata(request),
        )
        for request, image in images
    ]


def _requests(settings: CandidateSettings, prompt: str) -> list[ImageRequest]:
    from ..sampling.batch_sampler import ImageRequest, LoraUse
    from ..sampling.image_metadata import seed_of

    lora = LoraUse(Path(settings.lora), settings.strength) if settings.lora else None
    return [
        # With more candidates wanted later, those that are there keep their numbers, seeds and LoRA.
        ImageRequest(
            prompt, seed_of(prompt, number, settings.first_seed), None if settings.mixed and number % 2 == 0 else lora
        )
        for number in range(settings.candidates)
    ]


def _pair(session: Session, dataset: Dataset, prompts: Iterable[str], at_most: int | None) -> int:
    return sum(make_pairs(session, add_prompt(session, dataset, prompt), at_most) for prompt in prompts)


def _prompts_of(session: Session, dataset: Dataset) -> tuple[str, ...]:
    return tuple(session.scalars(select(Prompt.text).where(Prompt.dataset_id == dataset.id).order_by(Prompt.id)))


def _generated_before(session: Session, dataset: Dataset) -> set[str]:
    sources = (
        select(ImageRecord.source)
        .join(Candidate, Candidate.picture_id == ImageRecord.id)
        .join(Prompt, Prompt.id == Candidate.prompt_id)
        .where(Prompt.dataset_id == dataset.id, ImageRecord.source.is_not(None))
    )
    return set(session.scalars(sources))

"""Rejected images from the base: wanted images become pairs, where nothing was rejected.

Each target gets pictures of the same caption, as the base (or a LoRA, which may be the last one that was trained)
paints them now, and is assumed to be better: rejected images of the model's own, as in SePPO (arXiv 2410.05255). That
nobody compared them is kept with the pairs, and whoever judges such a pair goes over it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field
from sqlalchemy import select

from ..config.dataset_uri import whole_path
from ..errors import UserError
from ..images.aspect_buckets import bucket_for, buckets
from ..jobs.kind import JobContext, JobKind
from ..preferences.bulk_insert import PairRow, add_rows
from ..preferences.images import ImageMetadata, StoredFile, image_record, store_image
from ..preferences.io.captions import images_below, read_caption
from ..preferences.io.importer import into_dataset
from ..preferences.io.jsonl import json_lines, named_image, parse_line
from ..preferences.pairs import normalize_prompt
from ..preferences.schema import Judgement
from ..preferences.store import Store, open_store
from ..sampling.task_settings import GenerateSettings, lora_file
from ..text import format_count
from .candidates import store_images

if TYPE_CHECKING:
    from ..sampling.batch_sampler import ImageRequest

CLIENT = "targets"
ANNOTATOR = "assumed"
_LINES = "metadata.jsonl"


class TargetSettings(GenerateSettings):
    """Which images are wanted, and what generates those that are not."""

    folder: str = Field(min_length=1)
    """Images with their captions beside them, or with a metadata.jsonl of file_name and text."""
    dataset: str = Field(min_length=1)
    """Its name; it is made if need be."""
    rejects: int = Field(1, ge=1, le=16)
    """Images generated for each target."""
    lora: str | None = None
    """A LoRA file to generate them with."""
    strength: float = Field(1.0, ge=-10, le=10)
    """Of the LoRA; 1 is as trained."""


@dataclass(frozen=True)
class Target:
    """An image that is wanted, and its caption."""

    path: Path
    prompt: str


def check(workspace: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings whole, paths absolute. Raises UserError naming what is wrong or missing."""
    targets = TargetSettings.given(settings)
    folder = Path(targets.folder).expanduser().resolve()
    if next(iter(targets_in(folder)[0]), None) is None:
        raise UserError(f"no picture in {folder} has a caption: put a .txt of the same name beside each")
    with open_store(workspace).reading() as session:
        into_dataset(session, targets.dataset)
    paths = {"base": whole_path(targets.base), "lora": str(lora_file(targets.lora)) if targets.lora else None}
    return targets.model_copy(update={**paths, "folder": str(folder)}).plain()


def targets_in(folder: Path) -> tuple[list[Target], int]:
    """The wanted images below `folder` that have a caption, and how many others there are.

    Raises UserError where it is no folder, or its metadata.jsonl is broken.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    if (folder / _LINES).is_file():
        return list(_listed(folder / _LINES)), 0
    captions = [(path, normalize_prompt(read_caption(path) or "")) for path in images_below(folder)]
    targets = [Target(path, prompt) for path, prompt in captions if prompt]
    return targets, len(captions) - len(targets)


def _listed(file: Path) -> Iterator[Target]:
    """As the `datasets` library writes folders of images: {"file_name": "1.png", "text": "a cat"}."""
    for number, line in json_lines(file):
        yield _of_line(line, file, number)


def _of_line(line: str, file: Path, number: int) -> Target:
    try:
        row = parse_line(line, ("file_name", "text"))
        return Target(named_image(row["file_name"], file.parent.resolve(), False).path, normalize_prompt(row["text"]))
    except UserError as error:
        raise UserError(f"{file} line {number}: {error}") from None


def run(context: JobContext) -> str:
    """Generate what is not there yet. Pairs are in the dataset as soon as their images are generated."""
    from ..sampling.batch_sampler import BatchSampler, open_for_sampling
    from ..sampling.image_metadata import Provenance

    settings = TargetSettings.given(context.settings)
    store = open_store(context.workspace)
    targets, without = targets_in(Path(settings.folder))
    base, sampling = open_for_sampling(settings)
    sizes = buckets(base.resolution, base.latent_factor)
    loras = [Path(settings.lora)] if settings.lora else []
    by_size: dict[tuple[int, int], dict[ImageRequest, tuple[StoredFile, Target]]] = {}
    for target in targets:
        context.check()
        file = store_image(store, target.path.read_bytes(), target.path.name)
        size = bucket_for(file.width, file.height, sizes)
        of_target = _requests(settings, target.prompt, file)
        by_size.setdefault(size, {}).update((request, (file, target)) for request in of_target)
    done, total = 0, sum(map(len, by_size.values()))
    generated = 0
    of_any_size = Provenance.of(base, settings.base, sampling, loras)
    for size, requests in by_size.items():
        of_size = sampling.with_size(size) if not (settings.width or settings.height) else sampling
        provenance = replace(of_any_size, settings=of_size)
        numbers = {request: _sequence(provenance.fingerprint(request), file) for request, (file, _) in requests.items()}
        known = _known(store, list(numbers.values()))
        left = [request for request in requests if numbers[request] not in known]
        done += len(requests) - len(left)
        context.report_progress(done, total, "loading the base")
        for images in BatchSampler(base, of_size, loras).generate(left, context.check):
            files = store_images(store, provenance, images)
            with store.writing() as session:
                rows = []
                for request, rejected, metadata in files:
                    file, target = requests[request]
                    two = (
                        image_record(session, file, ImageMetadata(source=str(target.path))),
                        image_record(session, rejected, metadata),
                    )
                    rows.append(PairRow(target.prompt, *two, numbers[request], share_0=1.0, purpose="assumed"))
                dataset = into_dataset(session, settings.dataset, make=True)
                add_rows(session, dataset, rows, CLIENT, f"{CLIENT}: {settings.folder}", ANNOTATOR)
            done, generated = done + len(files), generated + len(files)
            context.report_progress(done, total, f"generating what to reject for {settings.dataset}")
    message = f"{format_count(generated, 'picture')} generated to be rejected for {settings.dataset}"
    return message + (f"; {format_count(without, 'picture')} without a caption left out" if without else "")


TARGETS = JobKind("targets", check, run)


def _requests(settings: TargetSettings, prompt: str, file: StoredFile) -> list[ImageRequest]:
    from ..sampling.batch_sampler import ImageRequest, LoraUse
    from ..sampling.image_metadata import seed_of

    lora = LoraUse(Path(settings.lora), settings.strength) if settings.lora else None
    # The seed depends on the target too: of two with one caption, each gets rejected images of its own.
    return [
        ImageRequest(prompt, seed_of(f"{prompt} {file.sha256}", number, settings.first_seed), lora)
        for number in range(settings.rejects)
    ]


def _sequence(fingerprint: str, file: StoredFile) -> int:
    """The number that a pair is known by: 63 bits of what was generated and what for."""
    return int.from_bytes(hashlib.sha256(f"{fingerprint} {file.sha256}".encode()).digest()[:8], "big") >> 1


def _known(store: Store, numbers: list[int]) -> set[int]:
    with store.reading() as session:
        return {
            number
            for start in range(0, len(numbers), 500)
            for number in session.scalars(
                select(Judgement.sequence).where(
                    Judgement.client == CLIENT, Judgement.sequence.in_(numbers[start : start + 500])
                )
            )
        }

"""Pair margins: how clearly a LoRA tells unjudged pairs apart, so that the most useful are judged first.

Measured as agreement is: at the fixed noise levels and the noise of `heldout_eval.HeldOut`, by the run's own objective.
A pair whose margin is near 0 is one that the LoRA cannot tell apart, so an answer says most there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field
from sqlalchemy import select, update

from ..errors import UserError
from ..images.image_file import ImageFile
from ..jobs.kind import JobContext, JobKind
from ..preferences.datasets import find_dataset, slices
from ..preferences.images import image_path
from ..preferences.pairs import Pair as JudgedPair
from ..preferences.schema import ImageRecord, Pair, Prompt
from ..preferences.store import Store, open_store
from ..runs.run_folder import Run
from ..sampling.task_settings import TaskSettings

if TYPE_CHECKING:
    import torch

    from ..latents.encode import EncodeProgress

MAX_PAIRS = 500
"""Pairs that are rated: more than anybody judges before the next LoRA."""
_PAIRS_A_WRITE = 25

Report = Callable[[int, int, str], None]
"""(done, total, what)."""


class RatingSettings(TaskSettings):
    """By which run which dataset is rated."""

    run: str = Field(min_length=1)
    """A run that has a LoRA."""
    dataset: str = Field(min_length=1)
    """Whose unjudged pairs are rated."""
    limit: int = Field(MAX_PAIRS, ge=1, le=100_000)
    """Pairs, the newest, at most."""


def check(workspace: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings whole. Raises UserError naming what is wrong or missing."""
    rating = RatingSettings.given(settings)
    _require_lora(Run.open(workspace, rating.run))
    with open_store(workspace).reading() as session:
        if find_dataset(session, rating.dataset).kind == "comparison":
            raise UserError(f"{rating.dataset} is a comparison, whose pairs are all judged alike: choose a dataset")
    return rating.plain()


def run(context: JobContext) -> str:
    """Rate what is not rated yet."""
    rating = RatingSettings.given(context.settings)
    rated = rate(
        open_store(context.workspace),
        rating.dataset,
        Run.open(context.workspace, rating.run),
        limit=rating.limit,
        report=context.report_progress,
    )
    return f"{rated} {'pair' if rated == 1 else 'pairs'} of {rating.dataset} rated by {rating.run}"


RATE = JobKind("rate", check, run)


def rate(
    store: Store,
    dataset: str,
    run: Run,
    *,
    device: torch.device | None = None,
    limit: int = MAX_PAIRS,
    report: Report = lambda *_: None,
) -> int:
    """Write the margins of the newest `limit` unjudged pairs under the LoRA of `run`; how many were measured now.

    Pairs that it rated before are left as they are, and margins of other runs are deleted at the end: those of two
    LoRAs are not comparable. report may raise to stop: what is written by then stays.
    Raises UserError where there is no such dataset or no LoRA, or the LoRA does not fit its base.
    """
    from ..device import pick_device

    config = run.config()
    _require_lora(run)
    pairs = _unrated(store, dataset, run.name, limit)
    if pairs:
        measured = margins_of(run, list(pairs.values()), device or pick_device(config.training.device), report)
        numbers = list(pairs)
        for start in range(0, len(numbers), _PAIRS_A_WRITE):
            report(start, len(numbers), f"rating by {run.name}")
            part = numbers[start : start + _PAIRS_A_WRITE]
            _write(store, run.name, part, list(islice(measured, len(part))))
        report(len(numbers), len(numbers), f"rated by {run.name}")
    with store.writing() as session:
        of_others = (Pair.dataset_id == find_dataset(session, dataset).id, Pair.margin_run != run.name)
        session.execute(update(Pair).where(*of_others).values(margin=None, margin_run=None, abs_margin=None))
    return len(pairs)


def _unrated(store: Store, dataset: str, run: str, limit: int) -> dict[int, JudgedPair]:
    """The newest unjudged pairs that `run` has not rated, by id; without those that have lost an image."""
    with store.reading() as session:
        newest = session.scalars(
            select(Pair)
            .where(Pair.dataset_id == find_dataset(session, dataset).id, Pair.answers == 0)
            .order_by(Pair.id.desc())
            .limit(limit)
        ).all()
        unrated = [pair for pair in newest if pair.margin_run != run]
        images: dict[int, ImageFile] = {}
        prompts: dict[int, str] = {}
        for some in slices(unrated):
            shown = [number for pair in some for number in (pair.first_id, pair.second_id)]
            for image in session.scalars(select(ImageRecord).where(ImageRecord.id.in_(shown))):
                path = image_path(store, image)
                if path.is_file():
                    images[image.id] = ImageFile(path, path.name, image.sha256, (image.width, image.height))
            texts = select(Prompt.id, Prompt.text).where(Prompt.id.in_([pair.prompt_id for pair in some]))
            prompts.update(map(tuple, session.execute(texts)))
    return {
        pair.id: JudgedPair(prompts[pair.prompt_id], images[pair.first_id], images[pair.second_id])
        for pair in unrated
        if pair.first_id in images and pair.second_id in images
    }


def margins_of(run: Run, pairs: Sequence[JudgedPair], device: torch.device, report: Report) -> Iterator[float]:
    """The margin of each of `pairs`, in order, under the LoRA of `run`, measured as its held-out pairs are.

    Raises UserError where the LoRA does not fit its base.
    """
    from ..device import pick_precision, torch_dtype
    from ..latents.encode import encode
    from ..lora import adapter
    from ..models.few_step import trained_timesteps
    from ..models.open import open_base
    from ..sampling.sampler import lora_for, set_lora
    from ..training.heldout_eval import HeldOut
    from ..training.objectives import build_objective

    config = run.config()

    def encoding(progress: EncodeProgress) -> None:
        report(0, len(pairs), f"looking at the pictures, {progress.done} of {progress.total}")

    base = open_base(
        config.base, tokenizers=Path(config.tokenizers) if config.tokenizers else None, prediction=config.prediction
    )
    lora = lora_for(base, run.lora_file)
    encoded = encode(
        base,
        pairs,
        (),
        run.workspace / "cache",
        device,
        resolution=config.data.resolution or base.resolution,
        workers=config.data.workers,
        progress=encoding,
    )
    precision = torch_dtype(pick_precision(config.training.precision, device))
    unet = base.load_unet(device, precision, config.training.quantize)
    adapter.attach(unet, lora.settings, 0, base.lora_targets)
    set_lora(unet, lora, strength=1.0)
    return HeldOut(
        encoded.pairs,
        timesteps=trained_timesteps(base.distilled, config.training.timesteps, base.schedule.timesteps),
        levels=config.watch.evaluate_timesteps,
        batch_size=config.training.batch_size,
        split=config.training.split_pair,
    ).margins(base, unet, build_objective(config.objective), device)


def _write(store: Store, run: str, pairs: Sequence[int], margins: Sequence[float]) -> None:
    with store.writing() as session:
        for pair, margin in zip(pairs, margins, strict=True):
            rated = {"margin": margin, "margin_run": run, "abs_margin": abs(margin)}
            session.execute(update(Pair).where(Pair.id == pair).values(rated))


def _require_lora(run: Run) -> None:
    if not run.lora_file.is_file():
        raise UserError(f"{run.name} has no LoRA yet: let it finish its training first")

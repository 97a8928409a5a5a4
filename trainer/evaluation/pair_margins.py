"""How sure is a LoRA of the pairs that nobody judged yet? Their margins, so that the most useful are judged first.

Measured as agreement is: at the fixed noise levels and the noise of `evaluate.HeldOut`, by the run's own objective. A
pair whose margin is near 0 is one that the LoRA cannot tell apart, so an answer says most there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from sqlalchemy import select, update

from ..device import pick_device, pick_precision, torch_dtype
from ..errors import UserError
from ..images.image_file import ImageFile
from ..latents.encode import EncodeProgress, encode
from ..lora import adapter
from ..models.few_step import trained_timesteps
from ..models.open import open_base
from ..preferences.datasets import find_dataset, slices
from ..preferences.images import image_path
from ..preferences.pairs import Pair as JudgedPair
from ..preferences.schema import ImageRecord, Pair, Prompt
from ..preferences.store import Store
from ..runs.run_folder import Run
from ..sampling.sampler import lora_for, set_lora
from ..training.heldout_eval import HeldOut

MOST = 500
"""Pairs that are rated: more than anybody judges before the next LoRA."""
_A_WRITE = 25

Tell = Callable[[int, int, str], None]


def rate(
    store: Store,
    dataset: str,
    run: Run,
    *,
    device: torch.device | None = None,
    limit: int = MOST,
    tell: Tell = lambda *_: None,
) -> int:
    """Write the margins of the newest `limit` unjudged pairs under the LoRA of `run`; how many were measured now.

    Pairs that it rated before are left as they are, and what other runs said is forgotten at the end: margins of two
    LoRAs are not comparable. tell(done, total, what) may raise to stop: what is written by then stays.
    Raises UserError where there is no such dataset or no LoRA, or the LoRA does not fit its base.
    """
    config = run.config()
    if not run.lora_file.is_file():
        raise UserError(f"{run.name} has no LoRA yet: let it finish its training first")
    pairs = _unrated(store, dataset, run.name, limit)
    if pairs:
        measured = margins_of(run, list(pairs.values()), device or pick_device(config.training.device), tell)
        numbers = list(pairs)
        for start in range(0, len(numbers), _A_WRITE):
            tell(start, len(numbers), f"rating by {run.name}")
            part = numbers[start : start + _A_WRITE]
            _write(store, run.name, part, list(islice(measured, len(part))))
        tell(len(numbers), len(numbers), f"rated by {run.name}")
    with store.writing() as session:
        of_others = (Pair.dataset_id == find_dataset(session, dataset).id, Pair.margin_run != run.name)
        session.execute(update(Pair).where(*of_others).values(margin=None, margin_run=None, abs_margin=None))
    return len(pairs)


def _unrated(store: Store, dataset: str, run: str, limit: int) -> dict[int, JudgedPair]:
    """The newest unjudged pairs that `run` has not rated, by id; without those that have lost a picture."""
    with store.reading() as session:
        newest = session.scalars(
            select(Pair)
            .where(Pair.dataset_id == find_dataset(session, dataset).id, Pair.answers == 0)
            .order_by(Pair.id.desc())
            .limit(limit)
        ).all()
        wanted = [pair for pair in newest if pair.margin_run != run]
        pictures: dict[int, ImageFile] = {}
        prompts: dict[int, str] = {}
        for some in slices(wanted):
            shown = [number for pair in some for number in (pair.first_id, pair.second_id)]
            for picture in session.scalars(select(ImageRecord).where(ImageRecord.id.in_(shown))):
                path = image_path(store, picture)
                if path.is_file():
                    pictures[picture.id] = ImageFile(path, path.name, picture.sha256, (picture.width, picture.height))
            texts = select(Prompt.id, Prompt.text).where(Prompt.id.in_([pair.prompt_id for pair in some]))
            prompts.update(map(tuple, session.execute(texts)))
    return {
        pair.id: JudgedPair(prompts[pair.prompt_id], pictures[pair.first_id], pictures[pair.second_id])
        for pair in wanted
        if pair.first_id in pictures and pair.second_id in pictures
    }


def margins_of(run: Run, pairs: Sequence[JudgedPair], device: torch.device, tell: Tell) -> Iterator[float]:
    """The margin of each of `pairs`, in order, under the LoRA of `run`, measured as its held-out pairs are.

    Raises UserError where the LoRA does not fit its base.
    """
    config = run.config()

    def encoding(progress: EncodeProgress) -> None:
        tell(0, len(pairs), f"looking at the pictures, {progress.done} of {progress.total}")

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
    ).margins(base, unet, config.objective.build(), device)


def _write(store: Store, run: str, pairs: Sequence[int], margins: Sequence[float]) -> None:
    with store.writing() as session:
        for pair, margin in zip(pairs, margins, strict=True):
            rated = {"margin": margin, "margin_run": run, "abs_margin": abs(margin)}
            session.execute(update(Pair).where(Pair.id == pair).values(rated))

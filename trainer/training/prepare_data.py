"""Data preparation, before the first step: the base opened, the pairs read and split, everything encoded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ..cancellation import StopRequest
from ..config.run_config import RunConfig
from ..distributed import SINGLE, World
from ..errors import UserError
from ..latents.encode import EncodedPair, EncodedPairs, EncodeProgress, encode
from ..models import few_step
from ..models.base_model import BaseModel
from ..models.memory_saving.quantize import check
from ..models.open import open_base
from ..preferences.io.detect_layout import open_pairs
from ..preferences.pairs import PairSet, Split, sample_pairs, split_by_prompt
from ..preferences.ranking_weights import gain_weighted
from .checkpoint import RunFingerprint

_SAMPLE_PROMPTS = 4
_REPORT_SECONDS = 0.5


@dataclass(frozen=True)
class TrainingData:
    """Everything a training reads. `sample_prompts` have their text encoded, as has the empty prompt."""

    base: BaseModel
    pair_set: PairSet
    train: tuple[EncodedPair, ...]
    held_out: tuple[EncodedPair, ...]
    encoded: EncodedPairs
    sample_prompts: tuple[str, ...]
    timesteps: Sequence[int]
    """Those that are trained and measured at."""

    @property
    def fingerprint(self) -> RunFingerprint:
        return RunFingerprint(base=self.base.identity(), pairs=self.pair_set.fingerprint)


def prepare(
    config: RunConfig,
    workspace: Path,
    device: torch.device,
    log: Callable[..., None],
    stop: StopRequest,
    world: World = SINGLE,
) -> TrainingData:
    """Open, read, split and encode, each of `world` its share. log: Run.log, called with the progress.

    Raises UserError for whatever a person can mend, Cancelled when asked to stop; what was encoded stays cached.
    """
    check(config.training.quantize, device)  # now, and not after an hour of encoding
    base = open_base(config.base, tokenizers=_path(config.tokenizers), prediction=config.prediction)
    base.distilled = few_step.with_step_count(base.distilled, config.training.timesteps)
    pair_set = pairs_of(config, workspace)
    split = split_pairs(pair_set, config)
    prompts = config.watch.sample_prompts or _some_prompts(split)

    reported_at = 0.0

    def report(progress: EncodeProgress) -> None:
        nonlocal reported_at
        stop.check()
        # Ten thousand images must not become ten thousand lines of the run's events.
        if progress.done == progress.total or time.monotonic() - reported_at > _REPORT_SECONDS:
            reported_at = time.monotonic()
            log("encoding", **asdict(progress))

    held_out = split.held_out[: config.watch.evaluate_pairs]
    encoded = encode(
        base,
        (*split.train, *held_out),
        prompts,
        workspace / "cache",
        device,
        resolution=config.data.resolution or base.resolution,
        flip=config.data.flip,
        workers=config.data.workers,
        progress=report,
        world=world,
    )
    with world.synchronized():
        stop.check()
    return TrainingData(
        base=base,
        pair_set=pair_set,
        train=encoded.pairs[: len(split.train)],
        held_out=encoded.pairs[len(split.train) :],
        encoded=encoded,
        sample_prompts=prompts,
        timesteps=few_step.trained_timesteps(base.distilled, config.training.timesteps, base.schedule.timesteps),
    )


def pairs_of(config: RunConfig, workspace: Path) -> PairSet:
    """The judged pairs that `config` names. Raises UserError as their source does."""
    own = config.data.rejected_captions == "own"
    return open_pairs(config.data.pairs, config.data.bad_pairs, workspace, own_captions=own).load()


def split_pairs(pair_set: PairSet, config: RunConfig) -> Split:
    """The pairs to train on and to measure on. Raises UserError where none are left to train on."""
    split = split_by_prompt(pair_set.pairs, config.data.held_out)
    if config.data.ranking_weights == "gain":
        split = Split(gain_weighted(split.train), split.held_out)
    if not split.train:
        raise UserError(
            f"all {len(pair_set.pairs)} pairs of {pair_set.source or config.data.pairs} have held-out prompts: "
            "collect pairs of more prompts, or lower --held-out"
        )
    most = config.data.max_pairs
    return split if most is None else replace(split, train=sample_pairs(split.train, most))


def _some_prompts(split: Split) -> tuple[str, ...]:
    """A few prompts to paint: held-out ones where there are any, since they show what was understood."""
    return tuple(dict.fromkeys(pair.prompt for pair in (*split.held_out, *split.train)))[:_SAMPLE_PROMPTS]


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)

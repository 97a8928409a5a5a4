"""Plan of a training: the memory that it takes of a card, counted; and its time on this machine, tried."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config.presets import AUTOMATIC, NONE
from ..config.run_config import RunConfig
from ..device import memory_of, pick_device
from ..errors import UserError
from ..models.meta_models import shapes_like, shapes_of
from ..models.open import TINY, open_base
from ..models.registry import FAMILIES
from ..text import format_duration
from ..training.batches import PairBatch
from ..training.learner import Learner
from ..training.prepare_data import pairs_of, split_pairs
from .estimate import MemoryEstimator
from .fit_preset import PresetFit, Resolve, card_of, choose_preset

_TIMED = 3


@dataclass(frozen=True)
class Plan:
    """seconds_a_step: median of three real optimizer steps on this machine, after one that warms up.

    seconds: all steps, without encoding, measuring and sample pictures. times_each_pair: how often a pair is seen.
    """

    family: str
    device: str
    precision: str
    base_parameters: int
    lora_parameters: int
    train_pairs: int
    held_out_pairs: int
    steps: int
    pairs_a_step: int
    times_each_pair: float
    seconds_a_step: float
    seconds: float

    def summary(self) -> str:
        """For a person, a few lines."""
        return (
            f"{self.family} on {self.device} in {self.precision}: {self.base_parameters:,} parameters frozen, "
            f"{self.lora_parameters:,} trained\n"
            f"{self.train_pairs} pairs to train on, {self.held_out_pairs} held out; {self.steps} steps of "
            f"{self.pairs_a_step} pairs show each pair {self.times_each_pair:.1f} times\n"
            f"{self.seconds_a_step:.2f} s a step here, about {format_duration(self.seconds)} in all "
            "(without encoding, measuring and sample pictures)"
        )


def make_plan(config: RunConfig, workspace: Path) -> Plan:
    """Read the pairs, load the base and take a few steps on noise of the right shape. Writes nothing.

    workspace: where a dataset lies that is named in place of a path. Raises UserError for whatever would stop the
    training itself.
    """
    split = split_pairs(pairs_of(config, workspace), config)
    device = pick_device(config.training.device)
    tokenizers = Path(config.tokenizers) if config.tokenizers else None
    base = open_base(config.base, tokenizers=tokenizers, prediction=config.prediction)
    # Noise of the right shapes: the arithmetic does not care what the images show.
    side = config.data.resolution or base.resolution
    batch = MemoryEstimator(shapes_like(base)).batch(config.training.batch_size, side, device, torch.randn)
    learner = Learner(config, base, device)
    seconds = _time_steps(learner, batch, config, device)
    pairs_a_step = config.training.batch_size * config.training.accumulation
    steps = config.training.steps
    trained = sum(p.numel() for p in learner.unet.parameters() if p.requires_grad)
    return Plan(
        family=base.family,
        device=str(device),
        precision=learner.precision,
        base_parameters=sum(p.numel() for p in learner.unet.parameters()) - trained,
        lora_parameters=trained,
        train_pairs=len(split.train),
        held_out_pairs=len(split.held_out),
        steps=steps,
        pairs_a_step=pairs_a_step,
        times_each_pair=steps * pairs_a_step / len(split.train),
        seconds_a_step=seconds,
        seconds=seconds * steps,
    )


def _time_steps(learner: Learner, batch: PairBatch, config: RunConfig, device: torch.device) -> float:
    times = []
    for step in range(_TIMED + 1):
        began = time.perf_counter()
        numbers = learner.train_step(step, [batch] * config.training.accumulation)
        numbers.cpu()  # waits for the device
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def plan_memory(
    resolve: Resolve, preset: str, *, family: str | None = None, gigabytes: float | None = None
) -> PresetFit:
    """What a training takes of a card: of this machine's, of one that is sold with `gigabytes`, or of any.

    resolve: its settings over those of a preset; preset: a name, "automatic" or "none"; family: whose published model
    is counted where the settings name no base. Raises UserError where neither a base nor a family is named, and where
    nothing fits; nothing is computed.
    """
    config = resolve(None)
    if config.base:
        tokenizers = Path(config.tokenizers) if config.tokenizers else None
        base = shapes_like(open_base(config.base, tokenizers=tokenizers, prediction=config.prediction))
    elif family:
        base = shapes_of(family)
    else:
        raise UserError(
            f"no base model: give --base with one, or --family ({' or '.join(FAMILIES)}) to count for the published one"
        )
    card = card_of(gigabytes) if gigabytes else memory_of(pick_device(config.training.device))
    # Trained here without a card, or on the embedded base, it is trained without a preset.
    bare = config.base == TINY or (card is None and config.base and config.data.pairs)
    return choose_preset(MemoryEstimator(base), resolve, NONE if bare and preset == AUTOMATIC else preset, card)

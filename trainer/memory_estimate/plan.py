"""What will a training take: of a card's memory, counted; and here, how long, tried."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from ..cli.arguments import Asked
from ..config.presets import AUTOMATIC, NONE
from ..config.run_config import RunConfig
from ..device import memory_of, pick_device, release_memory
from ..errors import UserError
from ..models.base_model import BaseModel
from ..models.meta_models import shapes_like, shapes_of
from ..models.open import TINY, open_base
from ..preferences.pairs import Pair
from ..text import format_duration
from ..training.batches import PairBatch
from ..training.learner import Learner
from ..training.prepare_data import divided, pairs_of
from .estimate import Count, batch_of
from .fit_preset import Fit, card_of, fitted

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
    split = divided(pairs_of(config, workspace), config)
    device = pick_device(config.training.device)
    tokenizers = Path(config.tokenizers) if config.tokenizers else None
    base = open_base(config.base, tokenizers=tokenizers, prediction=config.prediction)
    batch = _noise_batch(base, config, split.train[0], device)
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


def _noise_batch(base: BaseModel, config: RunConfig, pair: Pair, device: torch.device) -> PairBatch:
    """A batch of the right shapes whose pictures are noise: the arithmetic does not care what they show."""
    encoder = base.load_text(device, torch.float32)
    text = encoder([pair.prompt])[0]
    del encoder
    release_memory(device)
    side = config.data.resolution or base.resolution
    shapes = {name: tuple(tensor.shape) for name, tensor in text.items()}
    return batch_of(config.training.batch_size, side, base, shapes, device, torch.randn)


def _time_steps(learner: Learner, batch: PairBatch, config: RunConfig, device: torch.device) -> float:
    times = []
    for step in range(_TIMED + 1):
        began = time.perf_counter()
        numbers = learner.learn(step, [batch] * config.training.accumulation)
        numbers.cpu()  # waits for the device
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def plan_memory(asked: Asked) -> Fit:
    """What the training that was asked for takes of a card: of this machine's, of --memory GB, or of any.

    Raises UserError where neither a base nor a family is named, and where nothing fits; nothing is computed.
    """
    flags, plain = asked.flags, asked.given(None)
    if plain.base:
        tokenizers = Path(plain.tokenizers) if plain.tokenizers else None
        base = shapes_like(open_base(plain.base, tokenizers=tokenizers, prediction=plain.prediction))
    elif flags.family:
        base = shapes_of(flags.family)
    else:
        raise UserError(
            "no base model: give --base with one, or --family sdxl (or sd15) to count for the published one"
        )
    card = card_of(flags.memory) if flags.memory else memory_of(pick_device(plain.training.device))
    # Trained here without a card, or on the embedded base, it is trained without a preset.
    bare = plain.base == TINY or (card is None and plain.base and plain.data.pairs)
    preset = NONE if bare and flags.preset == AUTOMATIC else flags.preset
    return fitted(Count(base), asked.given, preset, card)

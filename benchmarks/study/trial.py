"""One trial of the study: train a LoRA on the pairs of a rung, and measure what came of it."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from mapo_studio.benchmarks.study.arms import ARMS, SEARCH, objective_of
from mapo_studio.benchmarks.study.measures import HeldOutErrors, Painter, measured, mismatch
from mapo_studio.benchmarks.study.worlds import SEARCH_CAPTIONS, TEST_CAPTIONS, World, pairs_folder
from mapo_studio.trainer.config.run_config import ASSUMED_MARGIN_SCALE, parse_config
from mapo_studio.trainer.latents.encode import EncodedPairs, encode, load_text
from mapo_studio.trainer.models.base_model import BaseModel
from mapo_studio.trainer.models.open import open_base
from mapo_studio.trainer.preferences.io.detect_layout import open_pairs
from mapo_studio.trainer.training.batches import BatchSettings, PairBatches, batches_by_step
from mapo_studio.trainer.training.learner import Learner
from mapo_studio.trainer.training.temperature import margin_scale_of, measure_margins

CPU = torch.device("cpu")
HELD_OUT_PAIRS = 32


@dataclass(frozen=True)
class Trial:
    """Everything that one result depends on. look: at the captions of the "test", or those of "search" and "recipe"."""

    world: World
    arm: str
    learning_rate: float
    knobs: dict[str, float] = field(default_factory=dict)
    pairs: int = 300
    noise: float = 0.0
    seed: int = 0
    steps: int = 48
    batch: int = 4
    rank: int = 8
    schedule: str = "cosine"
    look: str = "test"

    @property
    def key(self) -> str:
        return _key("trial", self)

    def run(self, work: Path) -> dict[str, object]:
        """The trial and its measures, as plain values."""
        world = self.world
        learner, batches = _ready(self, work)
        held_out = _held_out(work, world)
        margins = measure_margins(learner.base, learner.unet, batches.pairs, 1.0, CPU, batch_size=16)
        spread = margin_scale_of(margins) or ASSUMED_MARGIN_SCALE
        learner.objective = objective_of(self.arm, self.knobs, spread)
        began = time.process_time()
        for step, ready in enumerate(batches_by_step(batches, 1, 0, self.steps, CPU)):
            learner.train_step(step, ready)
        seconds = (time.process_time() - began) / self.steps
        learner.unet.eval()
        looked_at, each = (TEST_CAPTIONS, 2) if self.look == "test" else (SEARCH_CAPTIONS, 1)
        found = measured(world, work, learner.unet, _painter(world.base(work)), looked_at, held_out, each)
        return {**asdict(self), "key": self.key, "spread": spread, "cpu_seconds_a_step": seconds, **found}


def _ready(trial: Trial, work: Path) -> tuple[Learner, PairBatches]:
    """The engine's own learner, and its batches of the trial's pairs."""
    world = trial.world
    base = _base(world.base(work))
    encoded = _encoded(work, world, trial.pairs, trial.noise, trial.seed)
    config = parse_config(
        {
            "base": str(world.base(work)),
            "data": {"pairs": "-", "held_out": 0.0},
            "adapter": {"rank": trial.rank},
            "objective": {"safeguard": trial.knobs.get("guard")},
            "optimization": {"learning_rate": trial.learning_rate, "schedule": trial.schedule, "warmup_steps": 8},
            "training": {"steps": trial.steps, "batch_size": trial.batch, "accumulation": 1, "seed": trial.seed},
        },
        "the study",
    )
    learner = Learner(config, base, CPU)
    batches = PairBatches(
        encoded.pairs,
        load_text(encoded.text("")),
        BatchSettings(trial.batch, base.schedule.timesteps, trial.seed),
    )
    return learner, batches


@lru_cache(maxsize=4)
def _base(folder: Path) -> BaseModel:
    return open_base(folder)


@lru_cache(maxsize=4)
def _painter(folder: Path) -> Painter:
    return Painter(_base(folder))


@lru_cache(maxsize=8)
def _encoded(work: Path, world: World, count: int, noise: float, seed: int, held_out: bool = False) -> EncodedPairs:
    folder = pairs_folder(work, world, count=count, noise=noise, seed=seed, held_out=held_out)
    base = _base(world.base(work))
    pairs = open_pairs(str(folder), "stop", work).load().pairs
    return encode(base, pairs, (), work / "cache", CPU, resolution=base.resolution)


@lru_cache(maxsize=4)
def _held_out(work: Path, world: World) -> HeldOutErrors:
    encoded = _encoded(work, world, HELD_OUT_PAIRS, 0.0, 0, True)
    return HeldOutErrors(_base(world.base(work)), encoded.pairs)


@dataclass(frozen=True)
class Rung:
    """How far the taste of a world is from what its base paints, before anything is trained."""

    world: World

    @property
    def key(self) -> str:
        return _key("rung", self)

    def run(self, work: Path) -> dict[str, object]:
        painter, held_out = _painter(self.world.base(work)), _held_out(work, self.world)
        unet = painter.base.load_unet(CPU, torch.float32)
        untouched = measured(self.world, work, unet, painter, TEST_CAPTIONS, held_out)
        far = mismatch(self.world, work, painter, held_out, TEST_CAPTIONS)
        return {"world": asdict(self.world), "key": self.key, **far, **untouched}


@dataclass(frozen=True)
class Pace:
    """How long a step takes with each objective, in turns on one model, so that a slow moment hits all of them."""

    world: World
    rounds: int = 20
    batch: int = 4

    @property
    def key(self) -> str:
        return _key("pace", self)

    def run(self, work: Path) -> dict[str, object]:
        trial = Trial(self.world, "sft", 1e-4, pairs=32, batch=self.batch)
        learner, batches = _ready(trial, work)
        ways = {arm: objective_of(arm, SEARCH[arm][0][1], 0.01) for arm in ARMS}
        ready = [batches[number].to(CPU) for number in range(4)]
        taken: dict[str, list[float]] = {arm: [] for arm in ways}
        for turn in range(self.rounds + 1):
            for arm, objective in ways.items():
                learner.objective = objective
                began = time.perf_counter()
                learner.train_step(turn, [ready[turn % len(ready)]])
                if turn:  # the first one warms up
                    taken[arm].append(time.perf_counter() - began)
        return {"world": asdict(self.world), "key": self.key, "seconds": taken, "pairs_a_step": self.batch}


def _key(kind: str, what: object) -> str:
    """16 hex digits; the same thing has the same in every run of the study."""
    told = json.dumps([kind, asdict(what)], sort_keys=True)  # type: ignore[call-overload]
    return hashlib.sha256(told.encode()).hexdigest()[:16]

"""Training step: how much does our loop add to a bare forward and backward pass of the same UNet?

    python benchmarks/step.py [--rounds 15] [--pairs 4] [--json]

Three variants of a training step on the same base, pairs and LoRA, in one process and in turn, round by round, so
that a machine that slows down slows all of them:

    bare    forward and backward of the UNet on one kept batch: the arithmetic that cannot be avoided
    step    our step on one kept batch: objective, clipping and the optimizer as well
    loop    our step as the loop takes it: batches read from the cache and drawn, numbers gathered, events written

What is printed are medians over the rounds. The UNet is wider than the tiny base's, so that a step takes about half a
second on two cores; its weights are random, which the arithmetic does not care about.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from mapo_studio.trainer.config.run_config import parse_config
from mapo_studio.trainer.demo.judge import write_pairs
from mapo_studio.trainer.latents.encode import encode, load_text
from mapo_studio.trainer.models.base_model import BaseModel
from mapo_studio.trainer.models.open import TINY, open_base
from mapo_studio.trainer.preferences.io.detect_layout import open_pairs
from mapo_studio.trainer.runs.run_folder import Run
from mapo_studio.trainer.training.batches import BatchSettings, PairBatches, batches_by_step
from mapo_studio.trainer.training.learner import Learner
from mapo_studio.trainer.training.metrics import StepMetrics
from mapo_studio.trainer.training.pair_errors import pair_errors

CPU = torch.device("cpu")
_WIDTHS = (96, 192, 288)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="how often each variant is timed")
    parser.add_argument("--pairs", type=int, default=4, help="pairs a step")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on a line of its own")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        times = measure(Path(folder), options.rounds, options.pairs)
    seconds = {name: statistics.median(taken) for name, taken in times.items()}
    bare = seconds["bare"]
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    print(f"{machine}; {options.pairs} pairs a step, medians of {options.rounds} rounds")
    for name, median in seconds.items():
        spread = f"{min(times[name]) * 1000:.0f} to {max(times[name]) * 1000:.0f}"
        print(f"  {name:5} {median * 1000:7.1f} ms ({spread})   {median / bare - 1:+6.1%} over bare")
    print(f"  data and bookkeeping (loop over step): {seconds['loop'] / seconds['step'] - 1:+.1%}")
    if options.json:
        print(json.dumps({"machine": machine, "pairs": options.pairs, "rounds": options.rounds, "seconds": seconds}))


def measure(folder: Path, rounds: int, pairs: int) -> dict[str, list[float]]:
    """Seconds of every timed round of "bare", "step" and "loop"."""
    base = _wider(open_base(TINY))
    write_pairs(folder / "pairs", 16 * pairs, seed=0)
    config = parse_config(
        {
            "name": "step",
            "base": TINY,
            "data": {"pairs": str(folder / "pairs")},
            "training": {"steps": rounds, "batch_size": pairs, "accumulation": 1},
        },
        "benchmark",
    )
    pair_list = open_pairs(folder / "pairs").load().pairs
    encoded = encode(base, pair_list, (), folder / "cache", CPU, resolution=base.resolution)
    settings = BatchSettings(pairs, base.schedule.timesteps, seed=0)
    batches = PairBatches(encoded.pairs, load_text(encoded.text("")), settings)
    learner, run = Learner(config, base, CPU), Run.create(folder, config)
    metrics, kept = StepMetrics(run, rounds, every=config.watch.log_every), batches[0]
    # One round more than is timed: the first warms up.
    ahead = enumerate(batches_by_step(batches, 1, 0, rounds + 1, CPU))

    def bare() -> None:
        errors = pair_errors(base, learner.unet, kept, reference=False)
        errors.chosen.mean().add(errors.rejected.mean()).backward()
        learner.unet.zero_grad()

    def loop() -> None:
        step, micro_batches = next(ahead)
        metrics.add(step + 1, learner.train_step(step, micro_batches), learner.learning_rate(step), micro_batches)

    variants: dict[str, Callable[[], object]] = {
        "bare": bare,
        "step": lambda: learner.train_step(0, [kept]),
        "loop": loop,
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds + 1):
        for name, take in variants.items():
            began = time.perf_counter()
            take()
            times[name].append(time.perf_counter() - began)
    return {name: taken[1:] for name, taken in times.items()}


def _wider(base: BaseModel) -> BaseModel:
    """The tiny base with a wider UNet of random weights."""
    narrow = base.load_unet(CPU, torch.float32).config
    torch.manual_seed(0)
    wide = UNet2DConditionModel.from_config({**narrow, "block_out_channels": _WIDTHS})
    base.load_unet = lambda *_: wide  # type: ignore[method-assign]
    return base


if __name__ == "__main__":
    main()

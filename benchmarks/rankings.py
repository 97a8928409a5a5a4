"""Rankings: how much faster is a training step of k pictures than one of the k (k - 1) / 2 pairs they stand for?

    python benchmarks/rankings.py [--pictures 3 4 6] [--rounds 5] [--json]

On a CPU, the embedded tiny base, LoRA of rank 8: processor time of one forward and backward of the objective, of the
ranking (each picture once) and of its pairs (each picture in k - 1 of them), in turns; medians. Both are our own step;
tests/training/test_gradient.py shows that their gradients are the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from itertools import combinations

import torch
from mapo_studio.trainer.lora.adapter import LoraSettings, attach
from mapo_studio.trainer.models.open import TINY, open_base
from mapo_studio.trainer.training.batches import ImageBatch, PairBatch
from mapo_studio.trainer.training.gradient import accumulate_gradient
from mapo_studio.trainer.training.objectives import MaPO

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, nargs="+", default=[3, 4, 6], help="of a ranking")
    parser.add_argument("--rounds", type=int, default=5, help="counted ones; one more warms up")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on a line of its own")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {pictures: measure(pictures, options.rounds) for pictures in options.pictures}
    print(f"torch {torch.__version__}, processor seconds of a forward and backward, medians (least to most)")
    for pictures, seen in results.items():
        ratios = [pairs / ranking for ranking, pairs in zip(seen["ranking"], seen["pairs"], strict=True)]
        medians = ", ".join(f"{name} {_spread(seconds, 3)}" for name, seconds in seen.items())
        print(f"  {pictures} pictures: {medians}; {_spread(ratios, 2)} times as fast")
    if options.json:
        print(json.dumps(results))


def measure(pictures: int, rounds: int) -> dict[str, list[float]]:
    """Processor seconds of every counted round, for "ranking" and "pairs"."""
    base = open_base(TINY)
    unet = base.load_unet(CPU, torch.float32)
    attach(unet, LoraSettings(rank=8), seed=0)
    unet.train()
    [text] = base.load_text(CPU, torch.float32)(["a red circle at the top left"])
    pair_index = torch.tensor(list(combinations(range(pictures), 2))).T
    cells, count = base.resolution // base.latent_factor, pair_index.shape[1]
    ranking = PairBatch(
        pairs=(None,) * count,  # type: ignore[arg-type]
        images=ImageBatch(
            latents=torch.randn(pictures, 4, cells, cells),
            noise=torch.randn(1, 4, cells, cells).expand(pictures, -1, -1, -1),
            timestep=torch.full((pictures,), 500),
            text={name: tensor.expand(pictures, *tensor.shape) for name, tensor in text.items()},
            framing=torch.zeros(pictures, 6),
        ),
        pair_index=pair_index,
        preference=torch.ones(count),
        weight=torch.ones(count),
    )
    batches = {"ranking": ranking, "pairs": ranking.expanded()}
    seen: dict[str, list[float]] = {name: [] for name in batches}
    for _ in range(rounds + 1):
        for name, batch in batches.items():
            begun = time.process_time()
            accumulate_gradient(base, unet, batch, MaPO(), lambda loss: loss.backward(), mode="joint", seed=0)
            seen[name].append(time.process_time() - begun)
    return {name: seconds[1:] for name, seconds in seen.items()}


def _spread(numbers: list[float], digits: int) -> str:
    """Median (least to most)."""
    return f"{statistics.median(numbers):.{digits}f} ({min(numbers):.{digits}f} to {max(numbers):.{digits}f})"


if __name__ == "__main__":
    main()

"""Memory of each preset, counted without a card for the published SDXL and SD 1.5: the table of docs/cards.md.

    python benchmarks/count_memory.py [--preset "8 GB"] [--json]

Takes some minutes. How it is counted: trainer/memory_estimate/meta_tracker.py and trainer/memory_estimate/estimate.py.
"""

from __future__ import annotations

import argparse
import json

from mapo_studio.trainer.config.presets import apply, preset_named, presets
from mapo_studio.trainer.config.run_config import RunConfig
from mapo_studio.trainer.memory_estimate.estimate import MemoryEstimator
from mapo_studio.trainer.models.meta_models import shapes_of
from mapo_studio.trainer.models.registry import FAMILIES

PARTS = ("weights", "adapter", "optimizer", "activations", "peak", "sampling", "encoding", "host")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", action="append", help="only this one; may be given several times")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on a line of its own")
    options = parser.parse_args()
    rows = []
    print(f"| preset | base | {' | '.join(PARTS)} |")
    print("|---" * (len(PARTS) + 2) + "|")
    for family in FAMILIES:
        estimator = MemoryEstimator(shapes_of(family))
        for preset in map(preset_named, options.preset) if options.preset else presets():
            sizes = estimator.estimate(apply(RunConfig(), preset)).in_gib()
            figures = " | ".join(f"{sizes[part + '_gib']:.2f}" for part in PARTS)
            print(f"| {preset.name} | {family} | {figures} |", flush=True)
            rows.append({"preset": preset.name, "family": family, **sizes})
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()

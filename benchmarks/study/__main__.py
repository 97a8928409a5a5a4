"""Run the whole study; what is done already is not done again.

    python -m benchmarks.study [--work .cache/study] [--out docs/evidence/results.jsonl] [--workers 2] [--quick]

Four parts, each from what the ones before it found: the bases and how far each is from the taste; a search, with as
many settings for every objective; the trials that the claims are about; and the recipe. A line of JSON a result.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mapo_studio.benchmarks.study.plan import FULL, QUICK
from mapo_studio.benchmarks.study.running import carry_out

_ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=_ROOT / ".cache" / "study", help="bases, pairs, latents")
    parser.add_argument("--out", type=Path, default=_ROOT / "docs" / "evidence" / "results.jsonl")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes of one thread each")
    parser.add_argument("--quick", action="store_true", help="the same on one base with a few steps: proves nothing")
    asked = parser.parse_args()
    carry_out(QUICK if asked.quick else FULL, asked.work.resolve(), asked.out, asked.workers)


if __name__ == "__main__":
    main()

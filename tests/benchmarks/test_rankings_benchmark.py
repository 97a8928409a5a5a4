"""The benchmark of rankings runs, and a ranking of five takes less time than its ten pairs."""

import runpy
import statistics
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "rankings.py"


@pytest.mark.slow
def test_a_ranking_is_faster_than_its_pairs():
    seen = runpy.run_path(str(SCRIPT))["measure"](5, rounds=3)
    assert {way: len(seconds) for way, seconds in seen.items()} == {"ranking": 3, "pairs": 3}
    assert statistics.median(seen["pairs"]) > 1.5 * statistics.median(seen["ranking"])

"""The step benchmark runs, and times three different things."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "step.py"


@pytest.mark.slow
def test_each_way_is_timed_in_every_round(tmp_path):
    times = runpy.run_path(str(SCRIPT))["measure"](tmp_path, rounds=2, pairs=1)
    assert {way: len(taken) for way, taken in times.items()} == {"bare": 2, "step": 2, "loop": 2}
    assert all(second > 0 for taken in times.values() for second in taken)

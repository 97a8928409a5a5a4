"""Judging stays quick in a set of twenty thousand pairs: the benchmark, smaller, within generous bounds."""

from __future__ import annotations

import runpy
import statistics
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "preferences.py"
STATES = ("new", "half judged", "half judged by another", "all judged", "all judged by another", "all but ten judged")


@pytest.mark.slow
@pytest.mark.timed
def test_no_state_of_a_large_set_makes_judging_wait(tmp_path):
    times = runpy.run_path(str(SCRIPT))["measure"](tmp_path, pairs=20_000, rounds=10)
    # What the process computed: other processes on the machine are not what is tested.
    for state in STATES:
        for asked, most in (("next 8", 0.1), ("next 8, most useful first", 0.1), ("statistics", 0.5)):
            assert statistics.median(times.computing[f"{state}: {asked}"]) < most, (state, asked)
        if state != "all judged":
            assert statistics.median(times.computing[f"{state}: answer"]) < 0.1
        assert times.first[f"{state}: next 8"] < 30
    imported = times.computing["import 500 judged pairs"]
    assert 500 / statistics.median(imported) > 500

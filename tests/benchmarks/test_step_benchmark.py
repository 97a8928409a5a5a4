"""The step benchmark does in each of its three ways what it says of it."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from mapo_studio.trainer.training.learner import Learner
from mapo_studio.trainer.training.metrics import StepMetrics

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "step.py"


@pytest.mark.slow
def test_each_way_takes_its_own_step_in_every_round(tmp_path, monkeypatch):
    taken = []

    def note(owner: type, method: str, way: str) -> None:
        real = getattr(owner, method)
        monkeypatch.setattr(owner, method, lambda *args, **more: taken.append(way) or real(*args, **more))

    note(Learner, "train_step", "step")
    note(StepMetrics, "add", "numbers")
    benchmark = runpy.run_path(str(SCRIPT))
    bare, of_a_pair = [], benchmark["pair_errors"]
    benchmark["measure"].__globals__["pair_errors"] = lambda *args, **more: bare.append(1) or of_a_pair(*args, **more)
    times = benchmark["measure"](tmp_path, rounds=2, pairs=1)
    assert {way: len(seconds) for way, seconds in times.items()} == {"bare": 2, "step": 2, "loop": 2}
    # The first of three rounds warms up. A step of the loop is a step whose numbers are kept.
    assert len(bare) == 3
    assert taken == ["step", "step", "numbers"] * 3

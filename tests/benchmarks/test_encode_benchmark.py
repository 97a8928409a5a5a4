"""The encoding benchmark runs, and both ways write every picture."""

import runpy
from pathlib import Path

import pytest
from mapo_studio.trainer.models.open import TINY, open_base

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "encode.py"


@pytest.mark.slow
def test_both_ways_encode_every_picture(tmp_path):
    rates = runpy.run_path(str(SCRIPT))["measure"](open_base(TINY), tmp_path, pictures=4, side=64, rounds=1)
    assert {way: len(seen) for way, seen in rates.items()} == {"plain": 1, "ours": 1}
    assert len(list((tmp_path / "plain-1").iterdir())) == 4
    assert (
        len(list((tmp_path / "cache-1").rglob("*.safetensors"))) == 4 + 2
    )  # and two prompts: noise, and the empty one

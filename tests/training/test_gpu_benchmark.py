"""The card's benchmark runs small on a CPU, and what it writes is complete and plausible."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_it_measures_every_row_or_names_it(tmp_path, monkeypatch, capsys):
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--small", "--device", "cpu", "--steps", "2", "--out", str(out)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    found = json.loads(out.read_text())
    assert found["left_out"] == []
    assert found["ceiling_tflop_a_second"] > 0
    assert [row["pairs"] for row in found["rows"]] == [1, 2, 1]
    for row in found["rows"]:
        assert 0 < row["least"] <= row["seconds"] <= row["most"]
        assert row["pairs_a_second"] == pytest.approx(row["pairs"] / row["seconds"])
        assert row["tflop_a_second"] == pytest.approx(row["tflop"] / row["seconds"])
        assert row["allocated_gib"] is None  # a CPU's memory belongs to everybody
    one, two, _ = found["rows"]
    assert two["tflop"] == pytest.approx(2 * one["tflop"], rel=0.05)
    assert "1 x, whole weights, recomputed" in capsys.readouterr().out


@pytest.mark.slow
def test_rows_for_which_time_is_short_are_named():
    script = runpy.run_path(str(SCRIPT))
    found = script["measure"](torch.device("cpu"), True, 1, budget=0.0)
    assert found["rows"] == []
    assert len(found["left_out"]) == 3

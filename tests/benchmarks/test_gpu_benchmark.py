"""The card's benchmark runs small on a CPU, and what it writes is complete and plausible."""

import json
import sys
from concurrent.futures import Future

import pytest
import torch
from mapo_studio.benchmarks import gpu
from mapo_studio.benchmarks.small_sdxl import unet_shape
from mapo_studio.trainer.config.presets import presets

NARROW = {
    "block_out_channels": (32, 64, 64),
    "transformer_layers_per_block": (1, 1, 2),
    "attention_head_dim": (1, 2, 2),
}


@pytest.fixture
def narrow(monkeypatch):
    """Smaller than small: what is tested is the table."""
    monkeypatch.setattr(gpu, "unet_shape", lambda cells: unet_shape(cells) | NARROW)


@pytest.mark.slow
def test_it_measures_every_row_or_names_it(narrow, tmp_path, monkeypatch, capsys):
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--small", "--device", "cpu", "--steps", "2", "--out", str(out)])
    gpu.main()
    found = json.loads(out.read_text())
    assert found["left_out"] == []
    assert found["ceiling_tflop_a_second"] > 0
    assert [row["pairs"] for row in found["rows"]] == [1, 2, 1, 4]
    for row in found["rows"]:
        assert 0 < row["least"] <= row["seconds"] <= row["most"]
        assert row["pairs_a_second"] == pytest.approx(row["pairs"] / row["seconds"])
        assert row["tflop_a_second"] == pytest.approx(row["tflop"] / row["seconds"])
        assert row["allocated_gib"] is None  # a CPU's memory belongs to everybody
        assert row["over_released"] is None
    one, two, *_ = found["rows"]
    assert two["tflop"] == pytest.approx(2 * one["tflop"], rel=0.05)
    said = capsys.readouterr().out
    assert "1 x, whole weights, recomputed" in said
    assert "4 x, preset 4 GB" in said


@pytest.mark.slow
def test_rows_for_which_time_is_short_are_named():
    found = gpu.measure(torch.device("cpu"), True, 1, budget=0.0)
    assert found["rows"] == []
    assert len(found["left_out"]) == 4


def test_a_row_is_set_beside_its_plan_and_the_released_script():
    measured = gpu.Figures(2.0, 1.9, 2.1, 2.0, 100.0, 50.0, 0.5, 9.0, 11.0, 12.0, None, None, 0.4)
    plan = Future()
    plan.set_result(10.0)
    released = gpu.Theirs(pairs=4, seconds=8.0, pairs_a_second=0.5, peak_gib=44.0)
    beside = gpu.compared(measured, gpu.Row(4), plan, released)
    assert (beside.planned_gib, round(beside.of_plan, 3)) == (10.0, 0.1)
    assert (beside.over_released, beside.memory_over_released) == (4.0, 0.25)
    assert "+10%" in gpu.line(beside)
    assert gpu.compared(measured, gpu.Row(4), None, None) == measured


def test_the_presets_are_measured_as_they_are():
    rows = [row for row in gpu.rows(small=False) if row.preset]
    assert [row.preset for row in rows] == [preset.name for preset in presets()]
    for row, preset in zip(rows, presets(), strict=True):
        training = gpu.config_of(row, "bfloat16").training
        assert {name: getattr(training, name) for name in preset.settings["training"]} == preset.settings["training"]
        assert row.pairs == training.batch_size * training.accumulation

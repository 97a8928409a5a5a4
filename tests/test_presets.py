"""Settings by card: which is taken for which memory, what it changes, and that its figures are those counted."""

import re
import runpy
from pathlib import Path

import pytest
from mapo_studio.trainer.config import RunConfig
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.presets import apply, doubt, preset_for, preset_named, presets

ROOT = Path(__file__).parents[1]
GIB = 2**30
BY_NAME = {preset.name: preset for preset in presets()}
SIDE = {"sdxl": 1024, "sd15": 512}


def shape_of(preset) -> tuple[int, int, str]:
    """(pairs at a time, rank, what becomes of activations) of a preset."""
    config = apply(RunConfig(), preset)
    kept = "kept" if config.training.gradient_checkpointing == "off" else "recomputed"
    return config.training.batch_size, config.adapter.rank, kept


def test_there_is_one_for_every_usual_card_the_smallest_first():
    assert [preset.name for preset in presets()] == ["4 GB", "6 GB", "8 GB", "12 GB", "16 GB", "24 GB", "32 GB"]


@pytest.mark.parametrize(
    ("gib", "name"),
    [
        (3.9, "4 GB"),
        (2.0, "4 GB"),
        (5.7, "6 GB"),
        (7.7, "8 GB"),
        (11.6, "12 GB"),
        (14.56, "16 GB"),
        (22.0, "24 GB"),
        (23.6, "24 GB"),
        (31.4, "32 GB"),
        (79.1, "32 GB"),
    ],
)
def test_a_card_gets_the_one_that_it_reports_memory_for(gib, name):
    assert preset_for(int(gib * GIB)).name == name


def test_where_there_is_no_card_there_is_none():
    assert preset_for(None) is None


def test_a_name_that_there_is_not_is_answered_with_those_there_are():
    assert preset_named(" 8 gb ").name == "8 GB"
    with pytest.raises(UserError, match="no preset '9 GB': use 4 GB, 6 GB, 8 GB"):
        preset_named("9 GB")


@pytest.mark.parametrize("name", BY_NAME)
def test_applying_one_changes_what_it_says_and_nothing_else(name):
    before = RunConfig.model_validate(
        {"name": "cats", "base": "b", "training": {"steps": 7, "seed": 3}, "optimization": {"learning_rate": 0.5}}
    )
    after, settings = apply(before, BY_NAME[name]), BY_NAME[name].settings
    old, new = before.model_dump(), after.model_dump()
    for part, values in settings.items():
        for key, value in values.items():
            assert new[part].pop(key) == value
            old[part].pop(key)
    assert new == old


@pytest.mark.parametrize("name", BY_NAME)
def test_every_one_learns_from_four_pairs_a_step(name):
    training = apply(RunConfig(), BY_NAME[name]).training
    assert training.batch_size * training.accumulation == RunConfig().training.accumulation == 4


@pytest.mark.parametrize("name", BY_NAME)
def test_what_a_step_takes_leaves_room_on_the_card(name):
    preset = BY_NAME[name]
    assert preset.takes
    assert max(preset.takes.values()) + 1 <= preset.card
    assert preset.least <= preset.card * 0.95


def test_a_base_that_a_card_is_too_small_for_is_told_of():
    assert "4 GB are for SD 1.5, and SDXL needs 8 GB" in doubt(BY_NAME["4 GB"], "sdxl")
    assert doubt(BY_NAME["4 GB"], "sd15") is None
    assert doubt(BY_NAME["8 GB"], "sdxl") is None


@pytest.mark.parametrize("name", BY_NAME)
def test_its_figures_are_those_of_the_published_count(name):
    rows = re.findall(
        r"^\| (sdxl|sd15) \| (\d+) \| (\d+) \| (\d+) \| (recomputed|kept) \| [\d.]+ \| ([\d.]+) \|$",
        (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    counted = {(f, int(px), int(pairs), int(rank), kept): float(peak) for f, px, pairs, rank, kept, peak in rows}
    pairs, rank, kept = shape_of(BY_NAME[name])
    full = apply(RunConfig(), BY_NAME[name]).optimization.optimizer == "adamw"
    for family, takes in BY_NAME[name].takes.items():
        states_in_32_bits = takes - counted[family, SIDE[family], pairs, rank, kept]
        assert 0 < states_in_32_bits < 0.4 if full else states_in_32_bits == 0


@pytest.mark.slow
def test_counting_again_comes_to_the_same_figure():
    script = runpy.run_path(str(ROOT / "benchmarks" / "count_memory.py"))
    found = script["count"](script["learner_of"]("sd15", 8, "on"), 512, 1)
    assert found["peak"] == pytest.approx(BY_NAME["4 GB"].takes["sd15"], abs=0.02)
    assert found["weights"] == pytest.approx(1.6, abs=0.05), "859.5 million weights in two bytes, and the LoRA"

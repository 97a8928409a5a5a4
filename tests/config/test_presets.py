"""Settings by card: which is taken for which memory, what it changes, and that its figures are those counted."""

import re
from pathlib import Path

import pytest
from mapo_studio.trainer.config.presets import apply, doubt, preset_for, preset_named, presets, room_for
from mapo_studio.trainer.config.run_config import RunConfig
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.memory_estimate.estimate import GIB, Count
from mapo_studio.trainer.models.meta_models import FAMILIES, shapes_of

ROOT = Path(__file__).parents[2]
BY_NAME = {preset.name: preset for preset in presets()}


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


@pytest.mark.parametrize("name", BY_NAME)
def test_every_one_is_for_both_families(name):
    assert set(BY_NAME[name].takes) == set(FAMILIES)


def test_what_is_learned_does_not_depend_on_the_card():
    for preset in presets():
        assert "adapter" not in preset.settings
        assert set(preset.settings) <= {"training", "optimization"}


def test_every_step_to_a_smaller_card_takes_less():
    takes = [preset.takes["sdxl"] for preset in presets()]
    assert takes == sorted(takes)


def test_a_base_that_a_card_is_too_small_for_is_told_of():
    small = preset_named("4 GB")
    said = doubt(small, "sdxl", 2 * GIB)
    assert "SDXL with the settings for 4 GB needs about" in said
    assert "the card has 2.0" in said
    assert doubt(small, "sdxl", 4 * GIB) is None
    assert doubt(small, "sdxl", None) is None
    assert doubt(preset_named("16 GB"), "sdxl", 8 * GIB) is not None
    assert "not for another" in doubt(small, "another", None)


@pytest.mark.parametrize("name", BY_NAME)
def test_its_figures_are_those_in_the_documentation(name):
    rows = re.findall(
        r"^\| ([\d]+ GB) \| (sdxl|sd15) \|(.*)\|$",
        (ROOT / "docs" / "cards.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    counted = {(preset, family): [float(one) for one in figures.split("|")] for preset, family, figures in rows}
    for family, takes in BY_NAME[name].takes.items():
        weights, adapter, optimizer, activations, peak, sampling, encoding, _ = counted[name, family]
        assert max(peak, sampling, encoding) == takes
        assert weights + adapter + optimizer + activations == pytest.approx(peak, abs=0.021)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "names"), [("sdxl", list(BY_NAME)[0::2]), ("sd15", list(BY_NAME)[1::2])])
def test_counting_again_comes_to_the_same_figures(family, names):
    """Each of them with one family: it is the same count."""
    count = Count(shapes_of(family))
    for preset in (BY_NAME[name] for name in names):
        found = count.of(apply(RunConfig(), preset))
        assert found.most / GIB == pytest.approx(preset.takes[family], abs=0.006), preset.name
        assert room_for(found.most) <= preset.card * 0.95 * GIB

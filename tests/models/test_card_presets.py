"""Presets by memory: which a card gets, what a family takes of it, and that the registry's sizes are those counted."""

import re
from pathlib import Path

import pytest
from mapo_studio.trainer.config.presets import apply, preset_named, presets
from mapo_studio.trainer.config.run_config import RunConfig
from mapo_studio.trainer.memory_estimate.estimate import GIB, MemoryEstimator
from mapo_studio.trainer.models.card_presets import least_memory, memory_warning, preset_for, required_memory
from mapo_studio.trainer.models.meta_models import shapes_of
from mapo_studio.trainer.models.registry import FAMILIES

ROOT = Path(__file__).parents[2]
BY_NAME = {preset.name: preset for preset in presets()}


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


@pytest.mark.parametrize("name", BY_NAME)
def test_what_a_step_takes_leaves_room_on_the_card(name):
    preset = BY_NAME[name]
    assert max(family.preset_gib[preset.card] for family in FAMILIES.values()) + 1 <= preset.card
    assert least_memory(preset) <= preset.card * 0.95


@pytest.mark.parametrize("family", FAMILIES)
def test_every_one_was_counted_for_every_family(family):
    assert set(FAMILIES[family].preset_gib) == {preset.card for preset in presets()}


def test_every_step_to_a_smaller_card_takes_less():
    takes = [FAMILIES["sdxl"].preset_gib[preset.card] for preset in presets()]
    assert takes == sorted(takes)


def test_a_base_that_a_card_is_too_small_for_is_told_of():
    small = preset_named("4 GB")
    said = memory_warning(small, "sdxl", 2 * GIB)
    assert "SDXL with the settings for 4 GB needs about" in said
    assert "the card has 2.0" in said
    assert memory_warning(small, "sdxl", 4 * GIB) is None
    assert memory_warning(small, "sdxl", None) is None
    assert memory_warning(preset_named("16 GB"), "sdxl", 8 * GIB) is not None
    assert "not for another" in memory_warning(small, "another", None)


@pytest.mark.parametrize("name", BY_NAME)
def test_its_figures_are_those_in_the_documentation(name):
    rows = re.findall(
        r"^\| ([\d]+ GB) \| (sdxl|sd15) \|(.*)\|$",
        (ROOT / "docs" / "cards.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    counted = {(preset, family): [float(one) for one in figures.split("|")] for preset, family, figures in rows}
    for family, row in FAMILIES.items():
        weights, adapter, optimizer, activations, peak, sampling, encoding, _ = counted[name, family]
        assert max(peak, sampling, encoding) == row.preset_gib[BY_NAME[name].card]
        assert weights + adapter + optimizer + activations == pytest.approx(peak, abs=0.021)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "names"), [("sdxl", list(BY_NAME)[0::2]), ("sd15", list(BY_NAME)[1::2])])
def test_counting_again_comes_to_the_same_figures(family, names):
    """Each of them with one family: it is the same count."""
    estimator = MemoryEstimator(shapes_of(family))
    for preset in (BY_NAME[name] for name in names):
        found = estimator.estimate(apply(RunConfig(), preset))
        assert found.run_peak / GIB == pytest.approx(FAMILIES[family].preset_gib[preset.card], abs=0.006), preset.name
        assert required_memory(found.run_peak) <= preset.card * 0.95 * GIB

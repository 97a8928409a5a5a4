"""Presets: what there is, by name, and what applying one changes."""

import pytest
from mapo_studio.trainer.config.presets import apply, preset_named, presets
from mapo_studio.trainer.config.run_config import RunConfig
from mapo_studio.trainer.errors import UserError

BY_NAME = {preset.name: preset for preset in presets()}


def test_there_is_one_for_every_usual_card_the_smallest_first():
    assert [preset.name for preset in presets()] == ["4 GB", "6 GB", "8 GB", "12 GB", "16 GB", "24 GB", "32 GB"]


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


def test_what_is_learned_does_not_depend_on_the_card():
    for preset in presets():
        assert "adapter" not in preset.settings
        assert set(preset.settings) <= {"training", "optimization"}

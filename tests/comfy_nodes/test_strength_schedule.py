"""The strength of a LoRA over the steps of a sampling."""

import pytest
from mapo_studio.comfy_nodes.comfy_api.strength_schedule import strength_schedule

EVEN = [0.0, 0.25, 0.5, 0.75]


def test_it_grows_from_nothing_to_the_whole_at_the_last_step():
    assert strength_schedule(EVEN, True, 0.9, 1.0) == pytest.approx([0.0, 0.3, 0.6, 0.9])


def test_a_higher_power_leaves_more_to_the_base():
    assert strength_schedule(EVEN, True, 1.0, 2.0) == pytest.approx([0.0, 1 / 9, 4 / 9, 1.0])


def test_a_sampling_that_leaves_noise_goes_on_in_the_next_one():
    first, second = strength_schedule([0.0, 0.25], False, 1.0, 1.0), strength_schedule([0.5, 0.75, 1.0], True, 1.0, 1.0)
    assert [*first, *second] == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])


def test_a_picture_painted_over_begins_in_the_middle():
    assert strength_schedule([0.5, 1.0], True, 0.8, 1.0) == pytest.approx([0.4, 0.8])


def test_a_single_step_is_the_loras():
    assert strength_schedule([0.0], True, 0.7, 3.0) == [0.7]


def test_a_negative_strength_grows_away_from_the_lora():
    assert strength_schedule([0.0, 1.0], True, -0.5, 1.0) == pytest.approx([0.0, -0.5])

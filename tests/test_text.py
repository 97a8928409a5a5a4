"""Formatters for people."""

import math

import pytest
from mapo_studio.trainer.text import finite_number, format_count, format_duration, format_percent, format_size


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_read_as_people_say_them(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 KB"),
        (13_500_000, "13.5 MB"),
        (6.94e9, "6.9 GB"),
        (2e12, "2000.0 GB"),
    ],
)
def test_sizes_read_as_file_managers_show_them(size, text):
    assert format_size(size) == text


def test_percents_and_counts():
    assert [format_percent(share) for share in (0, 0.834, 1)] == ["0 %", "83 %", "100 %"]
    assert [format_count(count, "image") for count in (0, 1, 2)] == ["0 images", "1 image", "2 images"]


@pytest.mark.parametrize("value", [None, True, "3", math.nan, math.inf])
def test_what_is_no_finite_number_of_an_event_counts_as_missing(value):
    assert finite_number({"loss": value}, "loss") is None
    assert finite_number({}, "loss") is None
    assert finite_number({"loss": 3}, "loss") == 3.0

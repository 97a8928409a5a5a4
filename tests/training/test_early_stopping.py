"""Which point is the best, when patience ends, and when the chosen error rises too far: all by numbers alone."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapo_studio.trainer.training.early_stopping import EvalHistory, EvalPoint, history_of, noise_floor, point_of

PAIRS = 40


def course(*measured, pairs=PAIRS, every=50) -> EvalHistory:
    """The history after (agreement, chosen error) at steps 0, 50, 100 ..."""
    history = EvalHistory()
    for i, (agreement, error) in enumerate(measured):
        history = history.after(EvalPoint(every * i, agreement, pairs, error))
    return history


def test_the_point_with_the_best_agreement_is_the_best():
    history = course((0.5, 0.05), (0.7, 0.05), (0.95, 0.05), (0.8, 0.05), (0.75, 0.05))
    assert history.best.step == 100
    assert history.best_step(230) == 100
    assert history.reason() == "the agreement fell from 95 % to 75 % since"


def test_agreement_that_is_at_its_highest_at_once_does_not_freeze_what_has_only_begun_to_learn():
    errors = [0.060, 0.050, 0.040, 0.033, 0.030, 0.029, 0.029]
    history = course((0.6, 0.07), *((1.0, error) for error in errors))
    assert history.best.step == 50 * len(errors)
    assert history.best_step(400) == 400, "the steps after the last measurement count as it does"
    assert history.reason() == ""


def test_one_pair_more_or_less_decides_nothing():
    one = 1 / PAIRS
    assert course((0.5, 0.05), (0.9, 0.05), (0.9 - one, 0.05)).best.step == 100
    assert course((0.5, 0.05), (1.0, 0.05), (1.0 - one, 0.05)).best.step == 100
    assert course((0.5, 0.05), (1.0, 0.05), (0.75, 0.05), pairs=4).best.step == 100
    assert course((0.5, 0.05), (0.9, 0.05), (0.9 - 6 * one, 0.05)).best.step == 50


def test_of_like_agreement_the_later_is_kept_until_its_error_is_clearly_higher():
    assert course((0.5, 0.05), (1.0, 0.050), (1.0, 0.052), (1.0, 0.054)).best.step == 150
    slowly = course((0.5, 0.05), *((1.0, 0.05 * 1.04**i) for i in range(8)))
    assert slowly.best.step == 150, "compared with the lowest, or many small rises would add up unseen"
    assert slowly.reason() == "the agreement rose no further, and the error on the chosen pictures is 22 % higher since"


def test_clearly_more_agreement_is_kept_whatever_its_error():
    history = course((0.5, 0.05), (0.6, 0.04), (0.95, 0.08))
    assert (history.best.step, history.lowest) == (100, 0.08)


def test_the_base_itself_is_never_kept():
    assert course((0.9, 0.05)).best is None
    assert course((0.9, 0.05)).best_step(7) == 7
    assert course((0.9, 0.05), (0.5, 0.09)).best.step == 50


points = st.lists(
    st.tuples(st.integers(0, PAIRS).map(lambda n: n / PAIRS), st.floats(1e-3, 1.0)), min_size=2, max_size=12
)


@given(points)
def test_nothing_is_ever_kept_that_a_later_or_an_earlier_point_is_better_than_in_both_ways(measured):
    history = course(*measured)
    best = history.best
    later = [
        EvalPoint(50 * i, *one) for i, (agreement, error) in enumerate(measured) for one in [(agreement, PAIRS, error)]
    ]
    for other in later[1:]:
        clearly_more = other.agreement > best.agreement + noise_floor(1.0, PAIRS) + noise_floor(0.5, PAIRS)
        assert not (other.step > best.step and clearly_more and other.chosen_error < best.chosen_error)
        if other.step > best.step:
            assert not (other.agreement >= history.highest and other.chosen_error <= history.lowest)


@given(points, st.integers(0, 11))
def test_a_point_measured_twice_changes_nothing(measured, place):
    events = [
        {"event": "evaluation", "step": i, "agreement": agreement, "pairs": PAIRS, "chosen_error": error}
        for i, (agreement, error) in enumerate(measured)
    ]
    place %= len(events)
    twice = [*events[: place + 1], *events[place:]]
    assert history_of(twice) == history_of([{"event": "step", "step": 0}, *events])


@pytest.mark.parametrize("missing", ["agreement", "chosen_error", "pairs", "step"])
@pytest.mark.parametrize("value", [None, "x"])
def test_what_came_to_no_number_is_passed_over(missing, value):
    event = {"event": "evaluation", "step": 5, "agreement": 0.7, "pairs": 40, "chosen_error": 0.1}
    assert point_of(event) == EvalPoint(5, 0.7, 40, 0.1)
    assert point_of(event | {missing: value}) is None
    assert point_of(event | {"event": "step"}) is None
    assert point_of(event | {"chosen_error": math.nan}) is None


def test_a_training_is_out_of_patience_after_so_many_points_without_more_agreement_or_less_error():
    flat = course((0.5, 0.05), (0.8, 0.05), (0.8, 0.05), (0.775, 0.05), (0.8, 0.05))
    assert flat.stale == 3
    assert [flat.out_of_patience(patience) for patience in (0, 2, 3, 4)] == [False, True, True, False]
    assert course((0.5, 0.05), (0.8, 0.05), (0.8, 0.05), (0.85, 0.06)).stale == 0, "more agreement"
    assert course((0.5, 0.05), (1.0, 0.05), (1.0, 0.045), (1.0, 0.04)).stale == 0, "it goes on learning"
    assert course((0.5, 0.05), (1.0, 0.05), (0.7, 0.045), (0.7, 0.04)).stale == 2, "less error with less agreement"


def test_the_warning_is_for_a_clear_rise_above_the_lowest_error_while_agreement_is_high():
    history = course((0.5, 0.06), (0.7, 0.04))
    rise, since = history.chosen_error_rise(EvalPoint(100, 0.9, PAIRS, 0.05))
    assert (rise, since) == (pytest.approx(0.25), 50)
    assert history.chosen_error_rise(EvalPoint(100, 0.9, PAIRS, 0.043)) is None, "not clearly"
    assert history.chosen_error_rise(EvalPoint(100, 0.5, PAIRS, 0.09)) is None, (
        "and nothing gained: that is no bargain, but noise"
    )
    assert EvalHistory().chosen_error_rise(EvalPoint(0, 0.9, PAIRS, 0.05)) is None

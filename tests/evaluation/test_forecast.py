"""What is said of more pairs: the course that was put in, how sure it is, and when nothing can be said."""

import numpy as np
import pytest
from mapo_studio.trainer.evaluation.forecast import FEWEST_HELD_OUT, Measured, forecast


def nested(held_out, *misses):
    """Trainings on 40, 80, 160 ... pairs of which each agrees wherever the one before does."""
    return [Measured(40 * 2**number, "0" * missed + "1" * (held_out - missed)) for number, missed in enumerate(misses)]


def test_a_power_law_is_continued():
    found = forecast(nested(400, 160, 80, 40))
    assert found.says == "more"
    assert found.gain == pytest.approx(0.05, abs=0.003), "errors of 40, 20 and 10 % are followed by 5 %"
    assert found.low < found.gain < found.high
    assert found.sentence().startswith("With twice as many pairs (320) expect about 5 points more (")


def test_what_does_not_rise_is_said_to_hardly_help():
    found = forecast(nested(400, 80, 79, 80))
    assert found.says == "little"
    assert "would hardly help" in found.sentence()


def test_a_course_lost_in_noise_is_called_open():
    rng = np.random.default_rng(3)
    noisy = [Measured(pairs, "".join(rng.choice(["0", "1"], 30, p=[0.15, 0.85]))) for pairs in (40, 80, 160)]
    found = forecast(noisy)
    assert found.says == "open"
    assert "cannot be told from 30 held-out pairs" in found.sentence()


def test_too_few_held_out_pairs_say_nothing():
    found = forecast(nested(FEWEST_HELD_OUT - 1, 10, 5, 2))
    assert found.says == "few"
    assert "keep more aside" in found.sentence()


def test_nothing_more_is_promised_where_all_agree():
    assert forecast(nested(50, 10, 2, 0)).says == "perfect"


def test_pairs_that_fall_alike_say_more_than_shares_alone():
    """The same shares: nested in each other, or each missing on pairs of its own."""
    together = forecast(nested(60, 24, 18, 12))
    signs = [
        "".join("0" if (start + i) % 60 in range(missed) else "1" for i in range(60))
        for start, missed in ((0, 24), (24, 18), (42, 12))
    ]
    apart = forecast([Measured(pairs, one) for pairs, one in zip((40, 80, 160), signs, strict=True)])
    assert together.gain == pytest.approx(apart.gain)
    assert together.high - together.low < apart.high - apart.low


def test_the_order_of_the_trainings_does_not_matter():
    measured = nested(100, 40, 30, 20)
    assert forecast(measured[::-1]) == forecast(measured)


def test_what_has_not_learned_yet_promises_nothing():
    found = forecast(nested(36, 35, 34, 32))
    assert found.says == "unlearned"
    assert "not agree with you more than tossing a coin" in found.sentence()

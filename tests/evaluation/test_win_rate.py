"""What answers to a blind comparison add up to, at the edges and where prompts repeat."""

import numpy as np
import pytest
from mapo_studio.trainer.evaluation.win_rate import FEW, WinRate, win_rate
from mapo_studio.trainer.intervals import wilson_interval


def rate(wins=0, losses=0, ties=0, neither=0) -> WinRate:
    """Each answer to a prompt of its own."""
    outcomes = ["win"] * wins + ["loss"] * losses + ["tie"] * ties + ["neither"] * neither
    return win_rate(enumerate(outcomes))


def test_nothing_judged_says_so():
    nothing = rate()
    assert (nothing.answers, nothing.share, nothing.low, nothing.high) == (0, 0.5, 0.0, 1.0)
    assert nothing.verdict == "open"
    assert nothing.sentence() == "nothing is judged yet"


def test_without_ties_it_is_wilsons_interval():
    result = rate(43, 17)
    assert (result.low, result.high) == wilson_interval(43, 60)
    assert result.sentence() == "better than the base: 72 %, between 59 and 81, after 60 answers"
    assert rate(17, 43).sentence("other") == "worse than other: 28 %, between 19 and 41, after 60 answers"
    assert rate(33, 27).sentence() == "no difference can be told yet: 55 %, between 42 and 67, after 60 answers"


def test_few_answers_say_nothing_however_they_fell():
    assert rate(FEW - 1).verdict == "open"
    assert rate(FEW - 1).sentence() == "too early to tell, after 9 answers"
    assert rate(1).sentence() == "too early to tell, after 1 answer"
    assert rate(FEW).verdict == "better"


def test_all_wins_reach_one_hundred_percent():
    result = rate(40)
    assert (result.share, result.high) == (1.0, 1.0)
    assert 0.9 < result.low < 0.92
    assert rate(0, 40).sentence().startswith("worse than the base: 0 %, between 0 and ")


def test_ties_count_half_and_alone_make_no_difference():
    result = rate(ties=40)
    assert (result.share, result.verdict) == (0.5, "open")
    assert result.low < 0.5 < result.high
    assert "50 %" in result.sentence()
    assert rate(10, 0, 30).share == pytest.approx(25 / 40)


@pytest.mark.parametrize("wins", range(0, 13, 3))
@pytest.mark.parametrize("losses", range(0, 13, 4))
@pytest.mark.parametrize("ties", [0, 1, 7, 100])
def test_estimate_lies_in_its_interval_and_ties_do_not_change_the_verdict(wins, losses, ties):
    result = rate(wins, losses, ties)
    assert 0 <= result.low <= result.share <= result.high <= 1
    if wins + losses >= FEW:
        assert result.verdict == rate(wins, losses).verdict


def test_both_bad_says_nothing_about_which_is_better():
    assert rate(10, 5, neither=30).share == rate(10, 5).share
    assert rate(10, 5, neither=30).answers == 45
    assert rate(neither=12).sentence() == "no difference can be told: both were bad each time, after 12 answers"


def test_answers_to_one_prompt_weigh_less_where_they_are_alike():
    # Ten prompts of four seeds each, which decided alike within a prompt; or not at all alike.
    alike = win_rate((prompt, "win" if prompt < 7 else "loss") for prompt in range(10) for _ in range(4))
    mixed = win_rate((number % 10, "win" if number < 28 else "loss") for number in range(40))
    single = rate(28, 12)
    assert alike.share == mixed.share == single.share == 0.7
    assert (mixed.low, mixed.high) == (single.low, single.high)
    assert alike.high - alike.low > 1.5 * (single.high - single.low)
    assert alike.verdict == "open"
    assert single.verdict == "better"


def test_where_all_decided_alike_each_prompt_counts_once():
    result = win_rate((prompt, "win") for prompt in range(12) for _ in range(4))
    assert (result.low, result.high) == wilson_interval(12, 12)
    assert win_rate([("one", "win")] * 40).verdict == "open"  # one prompt tells nothing of others


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        # 20 prompts of 3 seeds; prompts differ in how much they favour the LoRA; a fifth of the answers are ties.
        favour = rng.beta(3, 2, size=20)
        outcomes = [
            (prompt, "tie" if rng.random() < 0.2 else "win" if rng.random() < favour[prompt] else "loss")
            for prompt in range(20)
            for _ in range(3)
        ]
        result = win_rate(outcomes)
        covered += result.low <= 0.8 * 0.6 + 0.1 <= result.high
    assert covered / 400 > 0.9

"""The claims of the study are judged by their written conditions, on results made up here to be known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fewer_resamples(study, monkeypatch):
    """The intervals here need no more, and are drawn in a tenth of the time."""
    monkeypatch.setattr(study("verdicts"), "_RESAMPLES", 1000)


def results_where(study, both, *, chosen=lambda arm, gap: -0.001, rejected=lambda arm, gap: 0.01, pace=None):
    """Lines for four rungs of the style ladder and two of the other, three seeds, `both(arm, gap, seed)` of each."""
    plan, arms = study("plan"), study("arms")
    results = plan.Results()
    for number, (ladder, share) in enumerate(
        [("style", 0.0), ("style", 0.1), ("style", 0.2), ("style", 0.4), ("unwanted", 0.4), ("unwanted", 0.8)]
    ):
        world, gap = {"ladder": ladder, "share": share}, 0.01 - 0.002 * number
        results.add({"part": "rungs", "key": f"rung {number}", "world": world, "error_gap": gap})
        for arm in arms.ARMS:
            for seed in range(3):
                before = {"chosen_error_before": 0.02, "rejected_error_before": 0.02}
                after = {"chosen_error": 0.02 + chosen(arm, gap), "rejected_error": 0.02 + rejected(arm, gap)}
                setting = {"arm": arm, "seed": seed, "pairs": 300, "noise": 0.0}
                line = {"part": "claims", "key": f"{number} {arm} {seed}", "world": world, **setting}
                results.add({**line, **before, **after, "both": both(arm, gap, seed)})
    seconds = pace or {arm: [0.3 if arm.startswith("dpo") else 0.2] * 20 for arm in arms.ARMS}
    results.add({"part": "pace", "key": "pace", "world": {"ladder": "style", "share": 0.4}, "seconds": seconds})
    return results


def named(study, results, start):
    return [one for one in study("verdicts").verdicts(results) if one.claim.startswith(start)]


def test_a_lead_that_grows_with_the_gap_has_a_slope_above_nought(study):
    def both(arm, gap, seed):
        return 0.5 + (20 * gap if arm.startswith("mapo") else 0) + 0.01 * seed * (arm == "dpo")

    results = results_where(study, both)
    slope = study("verdicts").lead_over_mismatch(results, "mapo paper")
    assert slope.value == pytest.approx(20, rel=0.01)
    assert slope.low > 0
    assert all(one.held for one in named(study, results, "1."))


def test_a_lead_that_is_chance_proves_nothing(study):
    rng = np.random.default_rng(4)
    results = results_where(study, lambda arm, gap, seed: float(rng.uniform(0.2, 0.8)))
    assert not any(one.held for one in named(study, results, "1."))
    assert not any(one.held for one in named(study, results, "3."))


def test_one_rung_on_which_the_chosen_error_rose_fails_the_second_claim_and_is_named(study):
    def chosen(arm, gap):
        if arm == "margin alone":
            return 0.01
        return 0.001 if arm == "mapo paper" and gap == 0.01 else -0.001

    (verdict,) = named(study, results_where(study, lambda *_: 0.5, chosen=chosen), "2.")
    assert not verdict.held
    assert "mapo paper at 0%" in verdict.found
    assert "calibrated" not in verdict.found


def test_the_second_claim_fails_where_the_margin_alone_lowers_the_chosen_error_too(study):
    (verdict,) = named(study, results_where(study, lambda *_: 0.5), "2.")
    assert not verdict.held
    assert verdict.found.count("margin alone") == 4


def test_a_step_must_be_shorter_in_nine_of_ten_turns(study):
    arms = study("arms").ARMS
    often_longer = {arm: [0.3] * 20 if arm == "dpo" else [0.2] * 17 + [0.4] * 3 for arm in arms}
    assert all(one.held for one in named(study, results_where(study, lambda *_: 0.5), "4."))
    assert not any(one.held for one in named(study, results_where(study, lambda *_: 0.5, pace=often_longer), "4."))


def test_the_difference_to_the_control_is_reported_without_a_pass(study):
    def both(arm, gap, seed):
        return {"dpo+sft": 0.9, "mapo calibrated": 0.7}.get(arm, 0.5)

    (verdict,) = named(study, results_where(study, both), "5.")
    assert verdict.held is None
    assert verdict.found.startswith("-0.20")


def test_every_objective_has_as_many_settings_to_choose_from(study):
    assert len({len(settings) for settings in study("arms").SEARCH.values()}) == 1


def test_the_setting_with_most_right_pictures_is_chosen_and_distance_decides_between_equals(study):
    plan = study("plan")
    results = plan.Results()
    for key, rate, both, distance in (("a", 1e-3, 0.5, 0.1), ("b", 2e-3, 0.7, 0.4), ("c", 3e-3, 0.7, 0.2)):
        line = {"part": "search", "key": key, "world": {"ladder": "style"}, "arm": "sft", "knobs": {}}
        results.add({**line, "learning_rate": rate, "both": both, "distance": distance})
    assert plan.best(results, "style", "sft") == (3e-3, {})

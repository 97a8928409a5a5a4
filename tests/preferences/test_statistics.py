"""The counts are those of the rows, and the sentence says what they mean."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mapo_studio.trainer.preferences.dataset_pairs import DatasetPairs
from mapo_studio.trainer.preferences.pairs import Split, split_by_prompt
from mapo_studio.trainer.preferences.statistics import ENOUGH_FOR_A_FIRST_LORA, Statistics, data_facts, statistics_of

NONE = Statistics(
    judged=0,
    waiting=0,
    pairs=0,
    prompts=0,
    today=0,
    pace_per_minute=None,
    repeated=0,
    self_agreement=None,
    self_agreement_low=None,
    self_agreement_high=None,
    shared=0,
    agreement=None,
    ties=0,
    both_bad=0,
    skips=0,
    left_share=None,
    trainable=0,
    held_out_pairs=0,
    held_out_prompts=0,
    is_comparison=False,
)


def told(there, annotator="ann"):
    with there.store.reading() as session:
        return statistics_of(session, there.dataset, annotator)


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        ({}, "No pairs are here yet: collect pictures first."),
        ({"waiting": 140}, "0 judged, about 100 more until a first LoRA is worth training."),
        (
            {"judged": 60, "trainable": 57, "waiting": 80},
            "60 judged, about 50 more until a first LoRA is worth training.",
        ),
        (
            {"judged": 99, "trainable": 99, "waiting": 1},
            "99 judged, about 1 more until a first LoRA is worth training.",
        ),
        (
            {"judged": 140, "trainable": 130, "waiting": 10},
            "140 judged: enough for a first LoRA; more make it steadier.",
        ),
        ({"judged": 140, "trainable": 130}, "All 140 judged: enough for a first LoRA."),
        (
            {"judged": 60, "trainable": 58},
            "All 60 judged, nothing is left: collect about 50 more pairs for a first LoRA.",
        ),
        (
            {"judged": 50, "pairs": 60, "trainable": 50},
            "50 judged, nothing is left: collect about 50 more pairs for a first LoRA.",
        ),
        (
            {"judged": 3, "trainable": 400, "waiting": 500},
            "3 judged by you, 400 pairs have a preference: enough for a first LoRA; more make it steadier.",
        ),
        ({"judged": 12, "waiting": 28, "is_comparison": True}, "12 of 40 judged."),
        ({"judged": 40, "is_comparison": True}, "All 40 judged."),
        (
            {"judged": 140, "trainable": 130, "repeated": 80, "self_agreement": 0.9125},
            "All 140 judged: enough for a first LoRA. You agree with yourself on 91 % of 80 repeated pairs.",
        ),
        (
            {
                "judged": 140,
                "trainable": 130,
                "repeated": 34,
                "self_agreement": 0.91,
                "self_agreement_low": 0.77,
                "self_agreement_high": 0.97,
            },
            "All 140 judged: enough for a first LoRA. You agree with yourself on 91 % of 34 repeated pairs "
            "(so few tell: between 77 % and 97 %).",
        ),
        (
            {"judged": 140, "trainable": 130, "repeated": 4, "self_agreement": 1.0},
            "All 140 judged: enough for a first LoRA.",
        ),
    ],
)
def test_the_sentence_says_where_one_stands(known, sentence):
    pairs = known.get("judged", 0) + known.get("waiting", 0)
    assert replace(NONE, **{"pairs": pairs} | known).sentence == sentence
    assert ENOUGH_FOR_A_FIRST_LORA == 100


def test_counts_are_of_what_stands(filled):
    there = filled()
    for pair, answer in enumerate(["left", "left", "tie", "both_bad", "skip"]):
        there.judge(pair=pair, answer=answer, sequence=2 * pair)
    found = told(there)
    assert (found.judged, found.waiting, found.pairs, found.prompts, found.today) == (4, 1, 6, 1, 4)
    assert (found.ties, found.both_bad, found.skips, found.trainable) == (1, 1, 1, 2)
    there.undo(0, 1)
    there.undo(8, 9)
    found = told(there)
    assert (found.judged, found.waiting, found.today, found.skips, found.trainable) == (3, 3, 3, 0, 1)


def test_the_left_side_is_watched(filled):
    there = filled()
    assert told(there).left_share is None
    for pair, answer in enumerate(["left", "left", "right", "left", "tie"]):
        there.judge(pair=pair, answer=answer, first_on_left=pair % 2 == 0, sequence=pair)
    assert told(there).left_share == 0.75


def test_the_pace_is_the_usual_one_and_no_pause_changes_it(filled):
    there = filled()
    for pair, seconds in enumerate([2.0, 2.0, None, 400.0]):
        there.judge(pair=pair, seconds=seconds, sequence=pair)
    assert told(there).pace_per_minute is None
    for pair in (4, 5):
        there.judge(pair=pair, seconds=2.0, sequence=pair)
    assert told(there).pace_per_minute == 30


def test_agreement_with_oneself_is_over_pairs_whatever_side_they_were_on(filled):
    there = filled()
    for pair in range(5):
        there.judge(pair=pair, answer="left", sequence=2 * pair)
    said = [("right", False), ("left", False), ("tie", False), ("skip", False), ("left", True)]
    for pair, (answer, first_on_left) in enumerate(said):
        there.judge(pair=pair, answer=answer, first_on_left=first_on_left, sequence=20 + 2 * pair, purpose="repeat")
    found = told(there)
    assert (found.repeated, found.self_agreement) == (4, 0.5)
    assert found.self_agreement_low < 0.2 < 0.8 < found.self_agreement_high
    assert found.judged == 5
    there.undo(20, 21)
    assert told(there).self_agreement == pytest.approx(1 / 3)


def test_agreement_between_people_is_over_pairs_that_several_judged(filled):
    there = filled()
    assert (told(there).shared, told(there).agreement) == (0, None)
    for pair in range(4):
        there.judge("ann", pair=pair, sequence=pair, client="a")
    there.judge("ann", pair=3, sequence=9, client="a", purpose="repeat", answer="right")
    there.judge("bob", pair=0, sequence=0, client="b", answer="right", first_on_left=False)
    there.judge("bob", pair=1, sequence=1, client="b", answer="right")
    there.judge("bob", pair=2, sequence=2, client="b", answer="skip")
    found = told(there)
    assert (found.shared, found.agreement) == (2, 0.5)
    assert (found.judged, told(there, "bob").judged, told(there, "cleo").judged) == (4, 2, 0)


def test_what_can_be_trained_on_is_what_training_takes(filled):
    for one in range(12):
        there = filled(3, f"cat {one}")
        there.judge("ann", client=f"{one}", sequence=0, answer=["left", "right", "tie", "both_bad"][one % 4])
        there.judge("bob", client=f"{one}", sequence=1, answer=["left", "tie", "both_bad"][one % 3])
        there.judge("ann", client=f"{one}", sequence=2, pair=1, answer="right", strength="slightly")
    found = told(there)
    pairs = DatasetPairs(there.store, "cats").load().pairs
    held_out = split_by_prompt(pairs, there.dataset.held_out).held_out
    assert found.trainable == len(pairs)
    assert found.held_out_pairs == len(held_out)
    assert found.held_out_prompts == len({pair.prompt for pair in held_out})
    assert 0 < found.held_out_prompts < found.prompts == 12


def facts(store, source="dataset:cats"):
    return data_facts(source, store.workspace, Split(DatasetPairs(store, "cats").load().pairs))


@pytest.mark.parametrize("url", [None])  # data_facts opens the workspace by its folder
def test_answers_strengths_and_repeats_are_counted_as_they_stand(filled):
    there = filled(4)
    there.judge(pair=0, answer="left", sequence=0)
    there.judge(pair=1, answer="right", strength="slightly", sequence=1)
    there.judge(pair=2, answer="tie", sequence=2)
    there.judge(pair=3, answer="both_bad", sequence=3)
    there.judge(pair=4, answer="left", sequence=4)
    there.undo(4, 5)
    there.judge(pair=0, answer="left", sequence=6, purpose="repeat")
    there.judge(pair=0, answer="right", sequence=0, client="other", annotator="bob")
    found = facts(there.store)
    assert found["judgements"] == {"one side": 4, "tie": 1, "both_bad": 1}
    assert found["strengths"] == {"clearly": 3, "slightly": 1}
    assert (found["judges"], found["repeated"], found["repeated_alike"]) == (2, 1, 1)
    assert (found["prompts"], found["most_of_a_prompt"]) == (1, len(DatasetPairs(there.store, "cats").load().pairs))


@pytest.mark.parametrize("url", [None])
def test_contested_and_weighted_pairs_are_counted(filled):
    there = filled(3)
    there.judge(pair=0)
    there.judge(pair=1, sequence=1)
    one, two = DatasetPairs(there.store, "cats").load().pairs
    split = Split((replace(one, preference=0.7, weight=2.0),), (two,))
    found = data_facts("some/folder", there.store.workspace, split)
    assert (found["contested"], found["weighted"], found["prompts"], found["held_out_prompts"]) == (1, 1, 1, 1)
    assert "judgements" not in found

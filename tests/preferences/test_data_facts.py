"""What a report is told of the judging: only what stands counts, and files have no judges."""

from dataclasses import replace

import pytest
from mapo_studio.trainer.preferences.data_facts import data_facts
from mapo_studio.trainer.preferences.dataset_pairs import DatasetPairs
from mapo_studio.trainer.preferences.pairs import Split


@pytest.fixture
def url():
    """On a SQLite file only: what is tested is not the database."""
    return


def facts(store, source="dataset:cats"):
    return data_facts(source, store.workspace, Split(DatasetPairs(store, "cats").load().pairs))


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


def test_contested_and_weighted_pairs_are_counted(filled):
    there = filled(3)
    there.judge(pair=0)
    there.judge(pair=1, sequence=1)
    one, two = DatasetPairs(there.store, "cats").load().pairs
    split = Split((replace(one, preference=0.7, weight=2.0),), (two,))
    found = data_facts("some/folder", there.store.workspace, split)
    assert (found["contested"], found["weighted"], found["prompts"], found["held_out_prompts"]) == (1, 1, 1, 1)
    assert "judgements" not in found

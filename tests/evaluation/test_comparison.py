"""Pictures get into a comparison once, each on its side, and another LoRA never into the same one."""

import io
from dataclasses import replace
from itertools import islice

import pytest
from mapo_studio.tests.stored_images import add_image
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.evaluation.comparison import (
    ComparisonInfo,
    add_comparison_image,
    add_comparison_pair,
    comparison_info,
    comparison_pairs,
    comparison_result,
    continue_comparison,
    newest_answer,
    suggest_names,
)
from mapo_studio.trainer.preferences.datasets import create_dataset
from mapo_studio.trainer.preferences.judgements import Answer, answer, undo
from mapo_studio.trainer.preferences.store import open_store
from PIL import Image

TASTE = ComparisonInfo(
    run="taste",
    base="sdxl",
    lora="taste.safetensors",
    lora_sha256="aa",
    against="",
    against_sha256="",
    strength=1.0,
    dataset="cats",
    task="",
)


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path)


def file_two(store, session, name=""):
    """One duel; returns the comparison."""
    comparison = continue_comparison(session, name, TASTE)
    pictures = []
    for colour in ("red", "blue"):
        file = io.BytesIO()
        Image.new("RGB", (64, 64), colour).save(file, "PNG")
        pictures.append(add_image(store, session, file.getvalue(), colour))
    for picture, side in zip(pictures, ("base", "lora"), strict=True):
        add_comparison_image(session, comparison, "a cat", picture, side)
    add_comparison_pair(session, comparison, "a cat", *pictures)
    return comparison


def test_filing_the_same_again_changes_nothing(store):
    with store.writing() as session:
        first, again = file_two(store, session), file_two(store, session)
        assert first.id == again.id
        assert comparison_result(session, first).pairs == 1
        [duel] = comparison_pairs(session, first)
        assert (duel.prompt, duel.other.width, duel.votes) == ("a cat", 64, None)
        assert duel.lora.sha256 != duel.other.sha256


@pytest.mark.parametrize(
    "change", [{"lora_sha256": "bb"}, {"strength": 0.5}, {"base": "other"}, {"schedule": "annealed"}]
)
def test_another_one_gets_a_name_of_its_own_and_never_the_same_comparison(store, change):
    with store.writing() as session:
        first = continue_comparison(session, "", TASTE)
        other = continue_comparison(session, "", replace(TASTE, **change))
        assert (first.name, other.name) == ("taste or the base", "taste or the base 2")
        assert continue_comparison(session, "", TASTE).id == first.id
        mine = continue_comparison(session, " mine ", TASTE)
        assert mine.name == "mine"
        with pytest.raises(UserError, match="mine compares taste at 1 with the base, not taste at"):
            continue_comparison(session, "mine", replace(TASTE, **change))


def test_a_file_that_was_renamed_is_still_the_same_lora(store):
    with store.writing() as session:
        first = continue_comparison(session, "mine", TASTE)
        assert (
            continue_comparison(session, "mine", replace(TASTE, lora="renamed.safetensors", run="", task="other")).id
            == first.id
        )
        assert comparison_info(first).lora == "taste.safetensors"


def test_a_dataset_that_is_trained_on_is_no_comparison(store):
    with store.writing() as session:
        create_dataset(session, "cats")
        create_dataset(session, "taste or the base")
        with pytest.raises(UserError, match="a dataset or comparison named cats"):
            continue_comparison(session, "cats", TASTE)
        assert continue_comparison(session, "", TASTE).name == "taste or the base 2"


def test_names_tell_what_is_compared():
    assert list(islice(suggest_names("x/taste.safetensors"), 2)) == ["taste or the base", "taste or the base 2"]
    assert next(suggest_names("taste.safetensors", "/y/old.safetensors")) == "taste or old"
    assert len(next(suggest_names("long" * 100))) <= 190


def test_every_answer_to_a_comparison_is_news_and_so_is_taking_it_back(store):
    with store.writing() as session:
        assert newest_answer(session) == 0
        comparison = file_two(store, session)
        [duel] = comparison_pairs(session, comparison)
        pair = add_comparison_pair(session, comparison, "a cat", duel.other, duel.lora)
        answer(session, "ann", Answer(pair.id, duel.lora.sha256, "left", "clearly", 1.0, "page", 1, "compare"))
        said = newest_answer(session)
        assert said > 0
        undo(session, "ann", "page", 2, said)
        assert newest_answer(session) > said

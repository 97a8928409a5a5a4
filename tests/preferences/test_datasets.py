"""Adding datasets, prompts, candidates and pairs: what is made, and that adding again changes nothing."""

from __future__ import annotations

from collections import Counter

import pytest
from mapo_studio.tests.stored_images import add_image
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.preferences import datasets
from mapo_studio.trainer.preferences.datasets import (
    add_candidates,
    add_pair,
    add_prompt,
    annotator_named,
    create_dataset,
    find_dataset,
    list_datasets,
    make_pairs,
    shuffle_of,
)
from mapo_studio.trainer.preferences.pairs import Pair as JudgedPair
from mapo_studio.trainer.preferences.pairs import split_by_prompt, split_hash
from mapo_studio.trainer.preferences.schema import Candidate, Pair, Prompt
from sqlalchemy import func, select


@pytest.fixture
def session(store):
    with store.writing() as session:
        yield session


@pytest.fixture
def prompt(session):
    return add_prompt(session, create_dataset(session, "cats"), "a cat")


@pytest.fixture
def pictures(store, session, picture_bytes):
    """pictures(count, first=0): rows of that many pictures."""

    def make(count, first=0):
        return [add_image(store, session, picture_bytes(seed), "p") for seed in range(first, first + count)]

    return make


def paired(session, prompt):
    found = select(Pair).where(Pair.prompt_id == prompt.id).order_by(Pair.round)
    return session.scalars(found).all()


def used(session, prompt):
    """How many pairs each picture is in."""
    return Counter(number for pair in paired(session, prompt) for number in (pair.first_id, pair.second_id))


def test_datasets_are_found_and_listed_by_name_and_kind(session):
    for name, kind in (("dogs", "pairs"), ("cats", "pairs"), ("cats vs base", "comparison")):
        create_dataset(session, name, kind=kind)
    assert [one.name for one in list_datasets(session)] == ["cats", "dogs"]
    assert [one.name for one in list_datasets(session, "comparison")] == ["cats vs base"]
    assert find_dataset(session, " cats  vs base ").kind == "comparison"
    with pytest.raises(UserError, match="there is no dataset birds; there are cats, dogs"):
        find_dataset(session, "birds")


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [("cats", {}, "already"), (" ", {}, "name"), ("x" * 201, {}, "200"), ("new", {"held_out": 1.0}, "hold out")],
)
def test_a_dataset_that_cannot_be_is_refused(session, name, more, said):
    create_dataset(session, "cats")
    with pytest.raises(UserError, match=said):
        create_dataset(session, name, **more)


def test_an_annotator_is_made_once(session):
    assert annotator_named(session, " Ann  Bee").id == annotator_named(session, "Ann Bee").id


def test_a_prompt_is_the_same_whatever_its_white_space(session):
    dataset = create_dataset(session, "cats")
    one = add_prompt(session, dataset, "a  cat\n on a roof ")
    assert add_prompt(session, dataset, "a cat on a roof").id == one.id
    assert one.text == "a cat on a roof"
    with pytest.raises(UserError, match="empty"):
        add_prompt(session, dataset, " \n")


def test_any_text_can_be_a_prompt(session):
    dataset = create_dataset(session, "cats")
    texts = ["x" * 100_000, "nul \0 inside", "half \ud800 a pair", "🐈 猫", "'; DROP TABLE pairs; --"]
    assert len({add_prompt(session, dataset, text).id for text in texts}) == len(texts)
    assert add_prompt(session, dataset, texts[1]).text == "nul inside"


def test_a_prompt_is_held_out_as_training_divides_it(session):
    dataset = create_dataset(session, "cats")
    prompts = [add_prompt(session, dataset, f"prompt {number}") for number in range(50)]
    split = split_by_prompt([JudgedPair(prompt.text, None, None) for prompt in prompts], 0.3)
    below = [prompt.text for prompt in prompts if prompt.split_hash < 0.3]
    assert below == [pair.prompt for pair in split.held_out]
    assert 0 < len(below) < 50
    assert split_hash("prompt 1") == prompts[1].split_hash


def test_candidates_are_added_once_and_keep_their_arm(session, prompt, pictures):
    rows = pictures(3)
    first = add_candidates(session, prompt, rows[:2], arm="base")
    again = add_candidates(session, prompt, [rows[1], rows[2], rows[1]], arm="lora")
    assert [one.arm for one in again] == ["base", "lora", "base"]
    assert again[0].id == first[1].id
    assert session.scalar(select(func.count()).select_from(Candidate)) == 3


def test_any_two_candidates_become_a_pair_once(session, prompt, pictures):
    add_candidates(session, prompt, pictures(5))
    assert (make_pairs(session, prompt), make_pairs(session, prompt)) == (10, 0)
    pairs = paired(session, prompt)
    assert [pair.round for pair in pairs] == list(range(10))
    assert len({(pair.first_id, pair.second_id) for pair in pairs}) == 10
    assert {pair.dataset_id for pair in pairs} == {prompt.dataset_id}
    add_candidates(session, prompt, pictures(1, first=9))
    assert make_pairs(session, prompt) == 5
    assert [pair.round for pair in paired(session, prompt)] == list(range(15))


@pytest.mark.parametrize("count", [0, 1])
def test_one_picture_makes_no_pair(session, prompt, pictures, count):
    add_candidates(session, prompt, pictures(count))
    assert make_pairs(session, prompt) == 0


def test_the_first_picture_of_a_pair_is_the_one_whose_name_sorts_first(session, prompt, pictures):
    rows = pictures(4)
    names = {row.id: row.sha256 for row in rows}
    add_candidates(session, prompt, rows)
    make_pairs(session, prompt)
    pairs = paired(session, prompt)
    assert all(names[pair.first_id] < names[pair.second_id] for pair in pairs)
    expected = [shuffle_of(prompt.digest, names[pair.first_id], names[pair.second_id]) for pair in pairs]
    assert [pair.shuffle for pair in pairs] == expected
    assert len(set(expected)) == 6
    assert all(0 <= one < 1 for one in expected)


@pytest.mark.parametrize(("count", "at_most"), [(8, 8), (8, 12), (7, 7), (16, 12), (5, 3)])
def test_a_spread_of_pairs_uses_every_picture_about_as_often(session, prompt, pictures, count, at_most):
    add_candidates(session, prompt, pictures(count))
    assert (make_pairs(session, prompt, at_most), make_pairs(session, prompt, at_most)) == (at_most, 0)
    times = used(session, prompt)
    often = [times[picture] for picture in session.scalars(select(Candidate.picture_id))]
    assert max(often) - min(often) <= 1


def test_pictures_that_came_later_get_the_pairs_that_are_left(session, prompt, pictures):
    add_candidates(session, prompt, pictures(4))
    make_pairs(session, prompt, 6)
    late = add_candidates(session, prompt, pictures(4, first=10))
    assert make_pairs(session, prompt, 10) == 4
    times = used(session, prompt)
    assert all(times[one.picture_id] >= 1 for one in late)


def test_a_pair_is_there_once_whichever_way_round(session, prompt, pictures):
    dataset = find_dataset(session, "cats")
    one, two = pictures(2)
    pair = add_pair(session, dataset, prompt, one, two, source="import: x")
    assert add_pair(session, dataset, prompt, two, one).id == pair.id
    assert session.get(Pair, pair.id).source == "import: x"
    assert session.scalar(select(func.count()).select_from(Candidate)) == 2
    with pytest.raises(UserError, match="the same"):
        add_pair(session, dataset, prompt, one, one)
    with pytest.raises(ValueError, match="not of the dataset"):
        add_pair(session, create_dataset(session, "dogs"), prompt, one, two)


def test_a_picture_may_be_of_several_prompts_and_datasets(session, prompt, pictures):
    dogs = create_dataset(session, "dogs")
    rows = pictures(3)
    for other in (prompt, add_prompt(session, dogs, "a cat"), add_prompt(session, dogs, "a dog")):
        add_candidates(session, other, rows)
        assert make_pairs(session, other) == 3
    assert session.scalar(select(func.count()).select_from(Prompt)) == 3


@pytest.mark.parametrize("nameless", [KeyError, OSError, ImportError])
def test_who_judges_without_a_name_is_the_user_of_this_machine(monkeypatch, nameless):
    monkeypatch.setattr(datasets.getpass, "getuser", lambda: "anna")
    assert datasets.default_annotator() == "anna"

    def fail():
        raise nameless

    monkeypatch.setattr(datasets.getpass, "getuser", fail)
    assert datasets.default_annotator() == "me"

"""Does adding many pairs at once leave the same rows as adding them one by one, and the same again when repeated?"""

from __future__ import annotations

import itertools

import pytest
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.preferences.bulk_insert import Added, PairRow, add_rows
from mapo_studio.trainer.preferences.datasets import add_pair, add_prompt, create_dataset
from mapo_studio.trainer.preferences.judgements import Answer, answer, vote_counts
from mapo_studio.trainer.preferences.schema import Annotator, Candidate, ImageRecord, Judgement, Pair, Prompt
from sqlalchemy import func, select

pytestmark = pytest.mark.slow


@pytest.fixture
def pictures(store, request):
    """Rows of pictures without files: twelve, or as many as the test says."""
    count = getattr(request, "param", 12)
    with store.writing() as session:
        rows = [
            ImageRecord(sha256=f"{n * 7919:064x}", ending=".png", width=1, height=1, created=0.0) for n in range(count)
        ]
        session.add_all(rows)
    return rows


@pytest.fixture
def dataset(store):
    with store.writing() as session:
        return create_dataset(session, "cats")


@pytest.fixture
def add(store, dataset):
    def run(rows, client="import:x", **more):
        with store.writing() as session:
            return add_rows(session, dataset, rows, client, **more)

    return run


def count(store, table):
    with store.reading() as session:
        return session.scalar(select(func.count()).select_from(table))


def all_pairs(store):
    with store.reading() as session:
        return session.scalars(select(Pair).order_by(Pair.id)).all()


def test_rows_become_prompts_candidates_pairs_and_judgements(store, pictures, add):
    rows = [
        PairRow("a  cat", pictures[2], pictures[1], 0, 1.0, votes=3.0, weight=0.5, annotator="ann", created=5.0),
        PairRow("a cat", pictures[1], pictures[2], 1, 0.25),
        PairRow("a cat", pictures[1], pictures[3], 2),
        PairRow("a dog", pictures[1], pictures[3], 3, answer="both_bad"),
    ]
    assert add(rows, source="import: cats.parquet", annotator="them") == Added(3, 3)
    pairs = all_pairs(store)
    assert [(pair.round, pair.answers, pair.votes, pair.both_bad, pair.weight) for pair in pairs] == [
        (0, 2, 4.0, 0.0, 1.0),
        (1, 0, 0.0, 0.0, 0.0),
        (0, 1, 0.0, 1.0, 0.0),
    ]
    # Of the first pair's four votes, picture 2 has three, and three quarters of one: picture 1 is its first.
    assert pairs[0].first_id == pictures[1].id
    assert pairs[0].votes_first == 0.25
    assert {pair.source for pair in pairs} == {"import: cats.parquet"}
    assert [count(store, table) for table in (Prompt, Candidate, Annotator)] == [2, 5, 2]
    with store.reading() as session:
        said = session.scalars(select(Judgement).order_by(Judgement.sequence)).all()
    assert [(one.answer, one.first_on_left, one.share_left) for one in said] == [
        ("left", False, 1.0),
        ("right", True, 0.25),
        ("both_bad", True, None),
    ]
    assert (said[0].created, {one.purpose for one in said}) == (5.0, {"import"})


@pytest.mark.parametrize("pictures", [701], indirect=True)
def test_adding_again_adds_nothing_and_a_grown_source_only_what_is_new(store, pictures, add):
    rows = [PairRow(f"prompt {n % 90}", pictures[n], pictures[n + 1], n, n % 3 / 2) for n in range(700)]
    assert add(rows[:600]) == Added(600, 600)
    before = [vars(pair).copy() for pair in all_pairs(store)]
    assert add(rows[:600]) == Added(0, 0)
    after = [vars(pair).copy() for pair in all_pairs(store)]
    for one in before + after:
        del one["_sa_instance_state"]
    assert after == before
    assert add(rows) == Added(100, 100)
    assert add(rows, client="import:another source") == Added(0, 700)
    assert {pair.votes for pair in all_pairs(store)} == {2.0}


def test_in_bulk_is_as_one_by_one(store, pictures, add):
    with store.writing() as session:
        other = create_dataset(session, "one by one")
        for n, (one, two) in enumerate(itertools.combinations(pictures, 2)):
            prompt = add_prompt(session, other, f"prompt {n % 5}")
            pair = add_pair(session, other, prompt, one, two)
            assert answer(session, "ann", Answer(pair.id, two.sha256, "left", "clearly", None, "page", n))
    rows = [
        PairRow(f"prompt {n % 5}", two, one, n, 1.0, annotator="ann")
        for n, (one, two) in enumerate(itertools.combinations(pictures, 2))
    ]
    add(rows)
    columns = (
        "first_id",
        "second_id",
        "round",
        "shuffle",
        "answers",
        "skips",
        "both_bad",
        "votes",
        "votes_first",
        "weight",
    )
    by_dataset = {}
    for pair in all_pairs(store):
        by_dataset.setdefault(pair.dataset_id, []).append(tuple(getattr(pair, name) for name in columns))
    one, two = by_dataset.values()
    assert sorted(one) == sorted(two)


@pytest.mark.parametrize("pictures", [1251], indirect=True)
def test_turns_go_on_within_a_prompt_from_slice_to_slice_and_call_to_call(store, pictures, add):
    rows = [PairRow("one prompt", pictures[n], pictures[n + 1], n) for n in range(1250)]
    add(rows[:1100])
    add(rows[1000:])
    assert [pair.round for pair in all_pairs(store)] == list(range(1250))


def test_votes_for_pairs_that_were_judged_here_are_added_to_them(store, pictures, dataset, add):
    with store.writing() as session:
        pair = add_pair(session, dataset, add_prompt(session, dataset, "a cat"), pictures[0], pictures[1])
        answer(session, "ann", Answer(pair.id, pictures[0].sha256, "right", "clearly", 1.0, "page", 1))
    assert add([PairRow("a cat", pictures[0], pictures[1], 0, 1.0, votes=3.0)]) == Added(0, 1)
    [pair] = all_pairs(store)
    assert (pair.answers, pair.votes, pair.votes_first) == (2, 4.0, 3.0)
    with store.reading() as session:
        assert vars(vote_counts(session, [pair.id])[pair.id]).items() <= vars(pair).items()


def test_the_same_number_about_the_same_pair_counts_once_within_a_call(store, pictures, add):
    row = PairRow("a cat", pictures[0], pictures[1], 4, 1.0)
    assert add([row, row]) == Added(1, 1)
    assert all_pairs(store)[0].votes == 1.0


def test_nothing_to_add_is_nothing(store, add):
    assert add([]) == Added(0, 0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"prompt": " "}, "row 5 has an empty prompt"),
        ({"image_1": 0}, "row 5 compares a picture with itself"),
        ({"answer": "undo"}, "row 5 says 'undo'"),
        ({"strength": "much"}, "row 5 says"),
        ({"share_0": 1.5}, "row 5 has a share of 1.5"),
        ({"share_0": float("nan")}, "row 5 has a share of nan"),
        ({"votes": -1.0}, "row 5 has a number of votes of -1"),
        ({"weight": float("inf")}, "row 5 has a weight of inf"),
        ({"sequence": -5}, "running number"),
    ],
)
def test_a_row_that_cannot_be_a_pair_is_named_and_nothing_is_added(store, pictures, add, wrong, said):
    good = {"prompt": "a cat", "image_0": pictures[0], "image_1": pictures[1], "sequence": 5, "share_0": 1.0}
    bad = {**good, **wrong}
    if bad["image_1"] == 0:
        bad["image_1"] = pictures[0]
    with pytest.raises(UserError, match=said):
        add([PairRow(**good), PairRow(**bad)])
    assert count(store, Prompt) == 0

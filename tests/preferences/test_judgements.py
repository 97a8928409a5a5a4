"""What an answer, an undo and a ranking leave behind, sent once, twice, too early, or by somebody else."""

from __future__ import annotations

import math

import pytest
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.preferences.bulk_insert import PairRow, add_rows
from mapo_studio.trainer.preferences.judgements import Answer, SequenceTaken, answer, rank
from mapo_studio.trainer.preferences.schema import Judgement, Pair
from sqlalchemy import event, select


def rows(filled):
    with filled.store.reading() as session:
        return session.scalars(select(Judgement).order_by(Judgement.id)).all()


def columns(pair):
    return pair.answers, pair.skips, pair.both_bad, pair.votes, pair.votes_first, pair.weight


@pytest.mark.parametrize(
    ("said", "after"),
    [
        ({"answer": "left"}, (1, 0, 0, 1, 1, 1)),
        ({"answer": "right"}, (1, 0, 0, 1, 0, 1)),
        ({"answer": "left", "first_on_left": False}, (1, 0, 0, 1, 0, 1)),
        ({"answer": "right", "first_on_left": False}, (1, 0, 0, 1, 1, 1)),
        ({"answer": "left", "strength": "slightly"}, (1, 0, 0, 1, 1, 0.5)),
        ({"answer": "tie"}, (1, 0, 0, 1, 0.5, 1)),
        ({"answer": "both_bad"}, (1, 0, 1, 0, 0, 0)),
        ({"answer": "skip"}, (0, 1, 0, 0, 0, 0)),
    ],
)
def test_an_answer_is_added_to_its_pair(filled, said, after):
    there = filled()
    assert there.judge(**said)
    assert columns(there.now()) == after
    assert columns(there.now(1)) == (0, 0, 0, 0, 0, 0)


def test_an_answer_sent_again_counts_once(filled):
    there = filled()
    assert there.judge(sequence=7)
    assert not there.judge(sequence=7)
    assert there.judge(sequence=7, client="another page")
    assert columns(there.now()) == (2, 0, 0, 2, 2, 1)


@pytest.mark.parametrize("other", [{"answer": "right"}, {"pair": 1}, {"purpose": "compare"}])
def test_another_answer_under_a_known_number_is_not_taken_for_the_known_one(filled, other):
    there = filled()
    there.judge(sequence=7)
    with pytest.raises(SequenceTaken, match="number 7 of this page is that of another judgement"):
        there.judge(sequence=7, **other)
    assert columns(there.now()) == (1, 0, 0, 1, 1, 1)
    assert columns(there.now(1)) == (0, 0, 0, 0, 0, 0)


def test_another_ranking_under_a_known_number_is_not_taken_for_the_known_one(filled):
    there = filled()
    best_first = [[record.sha256] for record in there.pictures[:3]]

    def ranked(tiers):
        with there.store.writing() as session:
            return rank(session, "ann", there.prompt.id, tiers, "page", 7, None)

    assert ranked(best_first) == 3
    assert ranked(best_first) == 0
    for other in (best_first[::-1], best_first[:2]):
        with pytest.raises(SequenceTaken):
            ranked(other)
    assert len(rows(there)) == 3


def test_two_people_count_both(filled):
    there = filled()
    there.judge("ann", client="a", answer="left")
    there.judge("bob", client="b", answer="right", strength="slightly")
    assert columns(there.now()) == (2, 0, 0, 2, 1, 1)


def test_an_undo_takes_back_all_of_an_answer_and_keeps_the_row(filled):
    there = filled()
    there.judge(sequence=1, strength="slightly")
    there.judge(sequence=2)
    assert there.undo(2, sequence=3)
    assert columns(there.now()) == (1, 0, 0, 1, 1, 0.5)
    assert there.undo(1, sequence=4)
    assert columns(there.now()) == (0, 0, 0, 0, 0, 0)
    said = rows(there)
    assert [(row.answer, row.undoes) for row in said] == [
        ("left", None),
        ("left", None),
        ("undo", said[1].id),
        ("undo", said[0].id),
    ]


def test_an_undo_sent_again_or_said_twice_takes_back_once(filled):
    there = filled()
    there.judge(sequence=1)
    assert there.undo(1, sequence=2)
    assert there.undo(1, sequence=2)
    assert there.undo(1, sequence=3)
    assert len(rows(there)) == 2


def test_after_an_undo_the_answer_may_be_sent_again_without_coming_back(filled):
    there = filled()
    there.judge(sequence=1)
    there.undo(1, sequence=2)
    assert not there.judge(sequence=1)
    assert there.now().answers == 0


def test_an_undo_before_its_answer_changes_nothing_until_it_is_sent_again(filled):
    there = filled()
    assert not there.undo(1, sequence=2)
    there.judge(sequence=1)
    assert there.now().answers == 1
    assert there.undo(1, sequence=2)
    assert there.now().answers == 0


def test_an_undo_cannot_be_undone(filled):
    there = filled()
    there.judge(sequence=1)
    there.undo(1, sequence=2)
    assert not there.undo(2, sequence=3)
    assert there.now().answers == 0


@pytest.mark.parametrize("who", [{"annotator": "bob"}, {"client": "another page"}])
def test_nobody_takes_back_what_another_said(filled, who):
    there = filled()
    there.judge(sequence=1)
    assert not there.undo(1, sequence=2, **who)
    assert there.now().answers == 1


def test_an_undo_under_a_number_that_is_taken_is_none(filled):
    there = filled()
    there.judge(sequence=1)
    there.judge(sequence=2, pair=1)
    assert not there.undo(1, sequence=2)
    assert there.now().answers == 1


def ranked(there, *tiers, sequence=1, annotator="ann", seconds=6.0):
    with there.store.writing() as session:
        names = [[there.pictures[number].sha256 for number in tier] for tier in tiers]
        return rank(session, annotator, there.prompt.id, names, "page", sequence, seconds)


def preferred(there):
    """{(better, worse)} by the numbers of the pictures, with the weight."""
    numbers = {picture.id: number for number, picture in enumerate(there.pictures)}
    with there.store.reading() as session:
        judged = session.scalars(select(Pair).where(Pair.answers > 0)).all()
    two = {pair: (numbers[pair.first_id], numbers[pair.second_id]) for pair in judged}
    return {names if pair.votes_first == 1 else names[::-1]: pair.weight for pair, names in two.items()}


def test_the_best_of_four_is_preferred_to_the_three_others(filled):
    there = filled(pictures=4)
    assert ranked(there, [2], [0, 1, 3]) == 3
    assert preferred(there) == {(2, 0): 0.5, (2, 1): 0.5, (2, 3): 0.5}
    assert [row.seconds for row in rows(there)] == [2.0] * 3


def test_a_ranking_says_something_about_any_two_of_different_tiers(filled):
    there = filled(pictures=5)
    assert ranked(there, [4], [0, 1], [], [2]) == 5
    assert preferred(there) == dict.fromkeys([(4, 0), (4, 1), (4, 2), (0, 2), (1, 2)], 0.5)


def test_a_ranking_is_one_submission(filled):
    there = filled()
    assert ranked(there, [0], [1, 2, 3]) == 3
    assert ranked(there, [0], [1, 2, 3]) == 0
    with pytest.raises(SequenceTaken):
        there.judge(sequence=1)
    assert there.undo(1, sequence=2)
    assert preferred(there) == {}
    assert len(rows(there)) == 6


def test_a_ranking_makes_the_pairs_that_are_missing(filled, store):
    there = filled(pictures=4)
    with store.writing() as session:
        session.delete(session.get(Pair, there.pairs[0].id))
    assert ranked(there, [0], [1], [2], [3]) == 6
    assert len(preferred(there)) == 6


@pytest.mark.parametrize(
    ("tiers", "said"),
    [
        ([[0, 1]], "two levels"),
        ([[0], []], "two levels"),
        ([], "two levels"),
        ([[0], [0, 1]], "twice"),
    ],
)
def test_what_is_no_ranking_is_refused(filled, tiers, said):
    there = filled()
    with pytest.raises(UserError, match=said):
        ranked(there, *tiers)
    assert rows(there) == []


def test_a_ranking_of_another_prompts_pictures_is_refused(filled):
    there, other = filled(pictures=2), filled(pictures=4, prompt="a dog")
    names = [[picture.sha256] for picture in other.pictures]
    with pytest.raises(UserError, match="no picture of this prompt"), there.store.writing() as session:
        rank(session, "ann", there.prompt.id, names, "page", 1, None)
    with pytest.raises(UserError, match="no prompt 99"), there.store.writing() as session:
        rank(session, "ann", 99, names, "page", 1, None)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"pair": 999}, "no pair 999"),
        ({"left": "f" * 64}, "does not have the picture"),
        ({"answer": "undo"}, "'undo' is none of left"),
        ({"strength": "much"}, "slightly"),
        ({"purpose": "import"}, "judge"),
        ({"client": ""}, "1 to 64"),
        ({"client": "x" * 65}, "1 to 64"),
        ({"client": "a\0b"}, "1 to 64"),
        ({"sequence": -1}, "running number"),
        ({"sequence": 2**63}, "running number"),
    ],
)
def test_an_answer_that_means_nothing_is_refused(filled, wrong, said):
    there = filled()
    given = Answer(**{**vars(there.given()), **wrong})
    with pytest.raises(UserError, match=said), there.store.writing() as session:
        answer(session, "ann", given)
    assert rows(there) == []


@pytest.mark.parametrize("name", ["", " \t", "\0", "x" * 201])
def test_an_annotator_has_a_name(filled, name):
    there = filled()
    with pytest.raises(UserError, match="annotator"):
        there.judge(name)


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_a_clock_that_was_set_back_costs_no_judgement(filled, seconds):
    there = filled()
    assert there.judge(seconds=seconds)
    assert rows(there)[0].seconds is None


def test_every_way_in_leaves_the_same_row_by_the_same_statement(filled):
    there = filled(pictures=2)
    [pair], names = there.pairs, {picture.id: picture for picture in there.pictures}
    first, second = names[pair.first_id], names[pair.second_id]
    statements = []

    def note(connection, cursor, statement, *more):
        if "INSERT INTO judgements" in statement:
            statements.append(statement)

    event.listen(there.store.engine, "before_cursor_execute", note)
    there.judge("ann", client="page", sequence=1, seconds=3.0)
    with there.store.writing() as session:
        rank(session, "ann", there.prompt.id, [[first.sha256], [second.sha256]], "ranks", 1, 3.0)
        row = PairRow("a cat", first, second, 1, 1.0, seconds=3.0, annotator="ann", purpose="judge")
        add_rows(session, there.dataset, [row], "bulk")
    for client in ("page", "ranks", "bulk"):
        assert there.undo(1, 2, client=client)

    of_the_way = {"_sa_instance_state", "id", "client", "purpose", "sequence", "undoes", "created"}
    values = [{name: value for name, value in vars(row).items() if name not in of_the_way} for row in rows(there)]
    answers, undos = values[:3], values[3:]
    said = {"pair_id": pair.id, "strength": "clearly", "first_on_left": True, "annotator_id": values[0]["annotator_id"]}
    assert answers == [{**said, "answer": "left", "share_left": 1.0, "votes": 1.0, "weight": 1.0, "seconds": 3.0}] * 3
    assert undos == [{**said, "answer": "undo", "share_left": None, "votes": 0.0, "weight": 0.0, "seconds": None}] * 3
    assert len(statements) == 6
    assert len(set(statements)) == 1


def test_a_copy_of_a_judgement_says_all_that_it_says(filled):
    there = filled()
    there.judge(sequence=4, answer="right", strength="slightly", seconds=2.5)
    [row] = rows(there)
    assert Answer.copy_of(row, 9, "ab", "copy", "compare") == Answer(
        9, "ab", "right", "slightly", 2.5, "copy", row.id, "compare"
    )

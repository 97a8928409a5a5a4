"""What the judging element asks and says over the contract: kept once, refused singly, harmless whatever is in it."""

from __future__ import annotations

import json

import pytest
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.preferences import api
from mapo_studio.trainer.preferences.api import (
    AnswersRequest,
    GroupsRequest,
    NextRequest,
    RankingsRequest,
    StatisticsRequest,
    UndoRequest,
)
from mapo_studio.trainer.preferences.schema import Judgement
from pydantic import ValidationError
from sqlalchemy import select

HOSTILE = "<img src=x onerror=alert(1)>'; DROP TABLE pairs; -- \u202e {{7*7}} \\u0000"


@pytest.fixture
def there(filled):
    return filled(4, HOSTILE)


def body(shown, sequence, **changes):
    said = {"pair": shown.pair, "left": shown.left.id, "answer": "left", "strength": "slightly", "seconds": 2}
    return said | {"client": "page", "sequence": sequence, "purpose": shown.purpose} | changes


def send(there, *said, annotator="ann"):
    return api.answers(there.store, AnswersRequest.model_validate({"answers": list(said)}), annotator)


def ask(there, annotator="ann", **asked):
    return api.next(there.store, NextRequest(dataset="cats", **asked), annotator)


def rows(there):
    with there.store.reading() as session:
        return session.scalars(select(Judgement).order_by(Judgement.id)).all()


def test_a_prompt_is_told_as_it_is(there):
    reply = json.loads(ask(there).model_dump_json())
    assert {pair["prompt"] for pair in reply["pairs"]} == {there.prompt.text}
    assert there.prompt.text.startswith("<img src=x onerror=alert(1)>'; DROP")
    assert reply["waiting"] == 6
    names = {picture.sha256 for picture in there.pictures}
    for pair in reply["pairs"]:
        assert set(pair) == {"pair", "prompt", "purpose", "left", "right"}
        assert {pair["left"]["id"], pair["right"]["id"]} < names
        assert (pair["left"]["width"], pair["left"]["height"]) == (16, 12)


def test_the_words_of_a_query_are_understood(there):
    held = [str(pair.pair) for pair in ask(there, count=2).pairs]
    words = {"dataset": "cats", "count": "3", "exclude": held, "order": "useful"}
    reply = api.next(there.store, NextRequest.model_validate(words), "ann")
    assert len(reply.pairs) == 3
    assert not {str(pair.pair) for pair in reply.pairs} & {*held}


@pytest.mark.parametrize(
    ("request_of", "wrong"),
    [
        (NextRequest, {"count": "0"}),
        (NextRequest, {"count": "65"}),
        (NextRequest, {"exclude": ["x"]}),
        (NextRequest, {"exclude": ["1"] * 10_001}),
        (NextRequest, {"order": "random()"}),
        (NextRequest, {"dataset": ""}),
        (NextRequest, {"dataset": "x" * 201}),
        (NextRequest, {"annotator": "somebody else"}),
        (GroupsRequest, {"size": "2"}),
        (GroupsRequest, {"size": "10"}),
        (StatisticsRequest, {"more": "1"}),
    ],
)
def test_a_question_out_of_bounds_is_refused(request_of, wrong):
    request_of.model_validate({"dataset": "cats"})
    with pytest.raises(ValidationError):
        request_of.model_validate({"dataset": "cats"} | wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"pair": "1"},
        {"pair": 2**63},
        {"pair": True},
        {"left": "0" * 63},
        {"left": "0" * 64 + "\n"},
        {"left": "../" * 21 + "x"},
        {"answer": "undo"},
        {"answer": "LEFT"},
        {"strength": "very"},
        {"seconds": "1"},
        {"seconds": float("nan")},
        {"client": ""},
        {"client": "x" * 65},
        {"sequence": -1},
        {"sequence": 1.5},
        {"purpose": "import"},
        {"purpose": "ranking"},
        {"annotator": "somebody else"},
        {"weight": 1000},
    ],
)
def test_an_answer_out_of_bounds_is_refused(wrong):
    sound = {"pair": 1, "left": "0" * 64, "answer": "left", "client": "page", "sequence": 1}
    AnswersRequest.model_validate({"answers": [sound]})
    with pytest.raises(ValidationError):
        AnswersRequest.model_validate({"answers": [sound | wrong]})
    if wrong.get("seconds") != wrong.get("seconds"):  # NaN is no JSON
        return
    with pytest.raises(ValidationError):
        AnswersRequest.model_validate_json(json.dumps({"answers": [sound | wrong]}))


def test_only_so_many_answers_come_at_once():
    sound = {"pair": 1, "left": "0" * 64, "answer": "left", "client": "page", "sequence": 1}
    assert len(AnswersRequest.model_validate({"answers": [sound] * 64}).answers) == 64
    with pytest.raises(ValidationError):
        AnswersRequest.model_validate({"answers": [sound] * 65})


def test_sent_twice_is_stored_twice_over_and_counted_once(there):
    first, second = ask(there, count=2).pairs
    assert send(there, body(first, 2)).stored == [2]
    reply = send(there, body(first, 2), body(second, 4))
    assert (reply.stored, reply.refused) == ([2, 4], [])
    assert len(rows(there)) == 2
    assert ask(there).waiting == 4


def test_what_cannot_be_kept_is_refused_and_the_rest_is_kept(there, filled):
    first, second = ask(there, count=2).pairs
    foreign = "0" * 64
    reply = send(
        there,
        body(first, 2),
        body(first, 4, pair=999_999),
        body(first, 6, left=foreign),
        body(second, 8, answer="tie"),
    )
    assert reply.stored == [2, 8]
    assert [one.sequence for one in reply.refused] == [4, 6]
    assert "no pair 999999" in reply.refused[0].why
    assert foreign in reply.refused[1].why
    assert [(row.pair_id, row.answer) for row in rows(there)] == [(first.pair, "left"), (second.pair, "tie")]


def test_a_clock_that_was_set_back_does_not_cost_the_answer(there):
    [shown] = ask(there, count=1).pairs
    assert send(there, body(shown, 2, seconds=-5.0)).stored == [2]
    assert rows(there)[0].seconds is None


def test_two_people_do_not_mix(there):
    [shown] = ask(there, count=1).pairs
    send(there, body(shown, 2, client="page of ann"))
    assert (ask(there).waiting, ask(there, "bob").waiting) == (5, 6)
    taking_back = UndoRequest(client="page of ann", sequence=3, undoes=2)
    assert not api.undo(there.store, taking_back, "bob").undone
    assert ask(there).waiting == 5
    assert api.undo(there.store, taking_back, "ann").undone
    assert ask(there).waiting == 6


def test_an_undo_tells_what_was_shown(there):
    [shown] = ask(there, count=1).pairs
    send(there, body(shown, 2, answer="right"))
    reply = api.undo(there.store, UndoRequest(client="page", sequence=3, undoes=2), "ann")
    assert reply.undone
    assert reply.pair == shown
    assert api.undo(there.store, UndoRequest(client="page", sequence=3, undoes=2), "ann") == reply
    assert ask(there, count=1).pairs[0].pair == shown.pair
    nothing = api.undo(there.store, UndoRequest(client="page", sequence=9, undoes=8), "ann")
    assert (nothing.undone, nothing.pair) == (False, None)


def test_a_ranking_is_taken_and_taken_back_whole(there):
    asked = GroupsRequest.model_validate({"dataset": "cats", "count": "2", "size": "4"})
    reply = api.groups(there.store, asked, "ann")
    assert reply.waiting == 1
    [group] = reply.groups
    assert group.text == there.prompt.text
    names = [picture.id for picture in group.pictures]
    ranking = {"prompt": group.prompt, "tiers": [names[:1], names[1:]], "seconds": 3.5, "client": "page", "sequence": 2}
    wrong = ranking | {"sequence": 4, "tiers": [["0" * 64], names[1:]]}
    kept = api.rankings(there.store, RankingsRequest.model_validate({"rankings": [wrong, ranking]}), "ann")
    assert kept.stored == [2]
    assert [one.sequence for one in kept.refused] == [4]
    assert api.groups(there.store, asked, "ann").groups == []
    undone = api.undo(there.store, UndoRequest(client="page", sequence=3, undoes=2), "ann")
    assert (undone.undone, undone.pair) == (True, None)
    assert api.groups(there.store, asked, "ann").waiting == 1


@pytest.mark.parametrize(
    "question",
    [
        lambda store: api.next(store, NextRequest(dataset="dogs"), "ann"),
        lambda store: api.groups(store, GroupsRequest(dataset="dogs"), "ann"),
        lambda store: api.statistics(store, StatisticsRequest(dataset="dogs"), "ann"),
    ],
)
def test_an_unknown_dataset_is_refused_naming_those_there_are(there, question):
    with pytest.raises(UserError, match=r"no dataset dogs; there are cats"):
        question(there.store)


def test_statistics_follow_every_answer(there):
    shown = ask(there).pairs
    send(there, body(shown[0], 2), body(shown[1], 4, answer="tie"), body(shown[2], 6, answer="skip"))
    told = api.statistics(there.store, StatisticsRequest(dataset="cats"), "ann")
    assert (told.judged, told.waiting, told.pairs, told.today) == (2, 3, 6, 2)
    assert (told.trainable, told.ties, told.skips) == (1, 1, 1)
    assert told.sentence.startswith("2 judged, about 100 more")
    assert json.loads(told.model_dump_json())["pace_per_minute"] is None


def test_a_picture_is_found_by_its_name_alone(there):
    name = there.pictures[0].sha256
    path = api.image_file(there.store, name)
    assert path.is_file()
    assert there.store.images in path.parents
    for wrong in ("0" * 64, name.upper(), name[:-1], f"{name}\n", "../preferences.db", ""):
        with pytest.raises(UserError):
            api.image_file(there.store, wrong)
    path.unlink()
    with pytest.raises(UserError, match="not any more"):
        api.image_file(there.store, name)

"""Everybody is shown every pair once, in the right order, and a few twice; whatever others do meanwhile."""

from __future__ import annotations

import itertools
import random

import pytest
from mapo_studio.trainer.preferences import judgements
from mapo_studio.trainer.preferences.annotator_history import history_of
from mapo_studio.trainer.preferences.datasets import add_pair, add_prompt, create_dataset
from mapo_studio.trainer.preferences.queue import (
    REPEAT_AFTER,
    REPEAT_EVERY,
    next_groups,
    next_pairs,
    waiting_groups,
    waiting_pairs,
)
from mapo_studio.trainer.preferences.schema import Pair, Prompt
from sqlalchemy import select

pytestmark = pytest.mark.slow


class Person:
    """Somebody at a page, who asks for pairs and answers them."""

    def __init__(self, filled, name="ann", client=None):
        self.store, self.dataset, self.name = filled.store, filled.dataset, name
        self.client = client or f"page of {name}"
        self.numbers = itertools.count()
        self.said = []

    def next(self, count=1, **asked):
        with self.store.reading() as session:
            return next_pairs(session, self.dataset, self.name, count, **asked)

    def waiting(self):
        with self.store.reading() as session:
            return waiting_pairs(session, self.dataset, self.name)

    def groups(self, count=10, **asked):
        with self.store.reading() as session:
            groups = next_groups(session, self.dataset, self.name, count, **asked)
            assert waiting_groups(session, self.dataset, self.name) >= len(groups)
            return groups

    def answer(self, shown, answer="left", **more):
        number = next(self.numbers)
        given = judgements.Answer(
            shown.pair, shown.left.sha256, answer, "clearly", 1.0, self.client, number, shown.purpose, **more
        )
        with self.store.writing() as session:
            assert judgements.answer(session, self.name, given)
        self.said.append((number, shown))
        return number

    def undo(self):
        number, shown = self.said.pop()
        with self.store.writing() as session:
            assert judgements.undo(session, self.name, self.client, next(self.numbers), number)
        return shown

    def judge_all(self, answer="left"):
        shown = []
        while found := self.next():
            self.answer(found[0], answer)
            shown += found
        return shown


@pytest.fixture
def prompts(filled):
    """prompts(number, pictures=4): a Filled of the last of so many prompts of one dataset."""

    def fill(number, pictures=4):
        for one in range(number):
            last = filled(pictures, f"cat {one}")
        return last

    return fill


def test_every_prompt_has_its_turn_before_one_comes_again(prompts):
    ann = Person(prompts(5, pictures=3))
    shown = ann.judge_all()
    assert len(shown) == 15 == len({one.pair for one in shown})
    for turn in range(3):
        assert len({one.prompt for one in shown[5 * turn : 5 * turn + 5]}) == 5


def test_asking_again_without_an_answer_brings_the_same_pairs(prompts):
    ann, bob = Person(there := prompts(3)), Person(there, "bob")
    pairs = [[one.pair for one in person.next(7)] for person in (ann, ann, bob)]
    assert len(pairs[0]) == 7
    assert pairs[0] == pairs[1] == pairs[2]


def test_sides_are_drawn_anew_for_every_showing(prompts):
    ann = Person(prompts(1))
    lefts = {ann.next()[0].left.sha256 for _ in range(60)}
    assert len(lefts) == 2


def test_what_the_page_holds_is_not_sent_again_but_still_waits(prompts):
    ann = Person(prompts(2))
    held = [one.pair for one in ann.next(5)]
    more = [one.pair for one in ann.next(20, exclude=held)]
    assert len(more) == 7
    assert not {*held} & {*more}
    assert ann.next(5, exclude=held + more) == []
    assert ann.waiting() == 12


def test_nothing_is_asked_twice_of_who_skipped_it(prompts):
    ann = Person(prompts(2))
    shown = ann.judge_all("skip")
    assert len({one.pair for one in shown}) == 12 == len(shown)
    assert ann.waiting() == 0
    assert Person(prompts(2), "bob").waiting() == 12


def test_a_team_judges_what_nobody_has_and_then_each_others(prompts):
    there = prompts(3)
    ann, bob = Person(there), Person(there, "bob")
    for _ in range(7):
        ann.answer(ann.next()[0])
    of_ann = {shown.pair for _, shown in ann.said}
    of_bob = [one.pair for one in bob.judge_all()]
    assert len(of_ann) == 7
    assert not {*of_bob[:11]} & of_ann
    assert {*of_bob[11:]} == of_ann


def test_an_undone_pair_comes_back_first(prompts):
    ann = Person(prompts(4))
    for _ in range(3):
        ann.answer(ann.next()[0])
    undone = [ann.undo().pair, ann.undo().pair]
    assert [one.pair for one in ann.next(2)] == undone
    ann.answer(ann.next()[0])
    assert ann.next()[0].pair == undone[1]


def test_a_finished_set_goes_on_with_new_pairs(prompts, filled):
    there = prompts(2)
    ann = Person(there)
    ann.judge_all()
    assert ann.next(8) == []
    filled(3, "a dog")
    assert {one.prompt for one in ann.next(8)} == {"a dog"}
    assert ann.waiting() == 3


@pytest.mark.parametrize("answer", ["left", "skip"])
def test_a_new_prompt_has_its_turn_before_second_pairs(prompts, filled, answer):
    ann = Person(prompts(3))
    for _ in range(5):
        ann.answer(ann.next()[0], answer)
    filled(2, "a dog")
    assert ann.next()[0].prompt == "a dog"


def test_most_useful_first_is_the_smallest_margin_of_what_nobody_judged(prompts):
    there = prompts(3)
    ann, bob = Person(there), Person(there, "bob")
    with there.store.writing() as session:
        pairs = session.scalars(select(Pair).order_by(Pair.id)).all()
        for number, pair in enumerate(pairs[:9]):
            pair.margin, pair.abs_margin, pair.margin_run = -1.0, (number * 5 % 9) / 4 // 1, "cats-1"
        abs_margin = {pair.id: pair.abs_margin for pair in pairs}
    ordered = ann.next(18, order="useful")
    known = [abs_margin[one.pair] for one in ordered]
    assert len({one.pair for one in ordered}) == 18
    assert known[:9] == sorted(known[:9])
    assert known[9:] == [None] * 9
    bob.answer(ordered[0])
    ann.answer(ordered[1])
    again = [one.pair for one in ann.next(18, order="useful")]
    assert again[:7] == [one.pair for one in ordered[2:9]]
    assert again[-1] == ordered[0].pair


@pytest.mark.parametrize("held", [0, 6])
def test_a_few_pairs_come_twice_with_sides_swapped(prompts, held):
    """held: pairs that the page fetches ahead."""
    ann = Person(prompts(14))
    page, order = [], []
    while page or order == [] or ann.waiting():
        page += ann.next(held + 1 - len(page), exclude=[one.pair for one in page])
        order.append(page.pop(0))
        ann.answer(order[-1], ["left", "right", "tie", "skip"][len(order) % 4])
    places = {}
    for place, shown in enumerate(order):
        places.setdefault(shown.pair, []).append(place)
    repeats = [place for place, shown in enumerate(order) if shown.purpose == "repeat"]
    assert len(places) == 84
    assert max(map(len, places.values())) == 2
    assert repeats == [seen[1] for seen in sorted(places.values(), key=lambda seen: seen[-1]) if len(seen) == 2]
    assert 2 <= len(repeats) <= 84 / REPEAT_EVERY
    for first, second in (seen for seen in places.values() if len(seen) == 2):
        assert second - first > REPEAT_AFTER
        assert order[first].left == order[second].right
        assert order[first].right == order[second].left
        assert first % 4 in (0, 3)  # it was left or right, not a tie or a skip
    assert all(later - earlier >= REPEAT_EVERY for earlier, later in itertools.pairwise(repeats))


def test_the_same_answers_are_asked_for_again_in_the_same_places(prompts):
    ann = Person(prompts(5))
    for _ in range(24):
        ann.answer(ann.next()[0])
    due = [one for one in ann.next(3) if one.purpose == "repeat"]
    assert len(due) == 1
    assert [one.pair for one in ann.next(3) if one.purpose == "repeat"] == [due[0].pair]
    ann.answer(due[0])
    ann.undo()
    assert [one.pair for one in ann.next(3) if one.purpose == "repeat"] == [due[0].pair]


def test_a_comparison_asks_every_pair_once(filled, store):
    there = filled(40)
    with store.writing() as session:
        comparison = create_dataset(session, "blind", kind="comparison")
        for one, (left, right) in enumerate(itertools.pairwise(there.pictures)):
            add_pair(session, comparison, add_prompt(session, comparison, f"a cat {one}"), left, right)
    ann = Person(there)
    ann.dataset = comparison
    shown = ann.judge_all()
    assert len(shown) == 39 == len({one.pair for one in shown})
    assert {one.purpose for one in shown} == {"compare"}
    assert ann.groups() == []


@pytest.mark.parametrize("seed", range(3))
def test_everybody_sees_every_pair_whoever_does_what_meanwhile(prompts, filled, seed):
    """Three people ask, answer, skip and undo by turns; then what is kept in memory is what the rows say."""
    there = prompts(3, pictures=3)
    draw = random.Random(seed)
    people = [Person(there, name) for name in ("ann", "bob", "cleo")]
    for step in range(45):
        person = draw.choice(people)
        if person.said and draw.random() < 0.2:
            person.undo()
        elif found := person.next(2, order=draw.choice(["spread", "useful"])):
            person.answer(draw.choice(found), draw.choice(["left", "right", "tie", "both_bad", "skip"]))
        if step == 30:
            filled(3, "a late dog")
    for person in people:
        person.judge_all()
        seen = [shown.pair for _, shown in person.said]
        assert sorted(seen) == sorted({*seen})
        assert len(seen) == 12
    for person in people:
        with there.store.reading() as session, history_of(session, there.dataset.id, person.name) as history:
            kept = remembered(history)
        there.store.close()
        with there.store.reading() as session, history_of(session, there.dataset.id, person.name) as anew:
            assert anew is not history
            assert remembered(anew) == kept


def remembered(history):
    return {
        name: value
        for name, value in vars(history).items()
        if name not in ("lock", "positions", "rankable", "ranked", "counts", "_days")
    } | {name: +getattr(history, name) for name in ("ranked", "counts", "_days")}


def test_a_transaction_that_came_to_nothing_leaves_nothing_behind(prompts):
    there = prompts(1)
    ann = Person(there)

    def fail():
        with there.store.writing() as session:
            judgements.answer(session, "ann", there.given())
            assert waiting_pairs(session, there.dataset, "ann") == 5
            assert len(next_pairs(session, there.dataset, "ann", 9)) == 5
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert ann.waiting() == 6
    ann.answer(ann.next()[0])
    assert ann.waiting() == 5


def test_groups_are_prompts_that_can_be_ranked_and_were_not(filled):
    filled(2, "too few")
    filled(3, "three")
    there = filled(6, "six")
    ann, bob = Person(there), Person(there, "bob")
    found = {group.text: group for group in ann.groups()}
    assert {text: len(group.images) for text, group in found.items()} == {"three": 3, "six": 4}
    assert len({picture.sha256 for picture in found["six"].images}) == 4
    six = found["six"]
    assert [group.text for group in ann.groups(exclude=[six.prompt])] == ["three"]
    names = [picture.sha256 for picture in six.images]
    with there.store.writing() as session:
        assert judgements.rank(session, "ann", six.prompt, [names[:1], names[1:]], "page", 900, 2.0) == 3
    assert [group.text for group in ann.groups()] == ["three"]
    # For bob the prompt that somebody judged comes last, if it was its first pair.
    assert {group.text for group in bob.groups()} == {"three", "six"}
    assert ann.waiting() == 1 + 3 + 15 - 3
    with there.store.writing() as session:
        assert judgements.undo(session, "ann", "page", 901, 900)
    assert {group.text for group in ann.groups()} == {"three", "six"}
    assert ann.waiting() == 19


def test_groups_that_nobody_judged_come_first(prompts):
    there = prompts(4)
    ann, bob = Person(there), Person(there, "bob")
    first = bob.next()[0]
    bob.answer(first)
    groups = ann.groups()
    assert [group.text for group in groups].index(first.prompt) == 3
    with there.store.reading() as session:
        assert session.get_one(Prompt, groups[3].prompt).text == first.prompt

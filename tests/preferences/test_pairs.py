"""Are pairs the same wherever they lie, and does a split keep prompts apart?"""

from mapo_studio.tests.preferences.empty_picture import EmptyPicture as Ref
from mapo_studio.trainer.preferences.pairs import Pair, PairSet, left_out, sample_pairs, split_by_prompt


def pair(prompt, chosen="a", rejected="b", **more):
    return Pair(prompt, Ref(chosen), Ref(rejected), **more)


def test_the_id_ignores_where_pictures_lie_but_not_which_one_is_chosen():
    assert Pair("x", Ref("a", "here"), Ref("b")).id == Pair("x", Ref("a", "there"), Ref("b")).id
    assert len({pair("x").id, pair("y").id, pair("x", "b", "a").id}) == 3


def test_the_fingerprint_ignores_order_and_sees_preference_and_weight():
    one, two = pair("x"), pair("y")
    same = PairSet((one, two)).fingerprint
    assert PairSet((two, one)).fingerprint == same
    assert PairSet((one, pair("y", preference=0.7))).fingerprint != same
    assert PairSet((one, pair("y", weight=2.0))).fingerprint != same


def test_no_prompt_is_on_both_sides_and_the_share_is_about_right():
    pairs = [pair(f"prompt {number % 500}", str(number)) for number in range(1500)]
    split = split_by_prompt(pairs, 0.2)
    assert not {one.prompt for one in split.train} & {one.prompt for one in split.held_out}
    assert 0.15 < len(split.held_out) / 1500 < 0.25
    assert len(split.train) + len(split.held_out) == 1500


def test_a_prompt_stays_on_its_side_when_the_data_set_grows():
    few = [pair(f"prompt {number}") for number in range(50)]
    more = [pair(f"prompt {number}") for number in range(200)]
    assert {one.prompt for one in split_by_prompt(few, 0.3).held_out} <= {
        one.prompt for one in split_by_prompt(more, 0.3).held_out
    }


def test_nothing_is_held_out_at_share_zero():
    assert split_by_prompt([pair(str(number)) for number in range(100)], 0.0).held_out == ()


def test_left_out_counts_by_reason_and_keeps_a_few_examples():
    told = left_out([("tie", f"row {number}") for number in range(9)] + [("broken", "row 9")])
    assert [(one.reason, one.count, one.examples) for one in told] == [
        ("tie", 9, ("row 0", "row 1", "row 2", "row 3", "row 4")),
        ("broken", 1, ("row 9",)),
    ]


def test_fewer_drawn_pairs_are_part_of_more_and_keep_their_order():
    every = [pair(f"prompt {number % 7}", str(number)) for number in range(40)]
    ten, twenty = sample_pairs(every, 10), sample_pairs(every, 20)
    assert (len(ten), len(twenty)) == (10, 20)
    assert set(ten) < set(twenty) < set(every)
    assert list(twenty) == [one for one in every if one in twenty]
    assert sample_pairs(every[::-1], 10) == ten[::-1], "whatever order they are read in"
    assert sample_pairs(every, 100) == tuple(every)

"""What do scores and several judgements add up to?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapo_studio.tests.preferences.empty_picture import EmptyPicture as Ref
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.preferences.io.aggregate import REPEATED, PairAggregator, share, votes
from mapo_studio.trainer.preferences.preference import TIE

CAT, DOG = Ref("c"), Ref("d")


def gathered(*judgements, bad="stop"):
    aggregator = PairAggregator(bad)
    for number, (first, second, share_first, weight) in enumerate(judgements):
        aggregator.add_judgement("a pet", first, second, share_first, f"row {number}", weight)
    return aggregator.pairs("pets")


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [
        ((1, 0), 1),
        ((0, 1), 0),
        ((True, False), 1),
        ((0.7, 0.3), 0.7),
        ((3, 1), 0.75),
        ((0.5, 0.5), 0.5),
        ((0, 0), 0.5),
        ((1, 1), 0.5),
        ((None, 1), None),
        ((1, float("nan")), None),
    ],
)
def test_scores_become_a_share(scores, wanted):
    assert share(*scores) == wanted


@pytest.mark.parametrize("scores", [(-1, 0), (float("inf"), 0), ("yes", "no")])
def test_scores_that_mean_nothing_are_refused(scores):
    with pytest.raises(ValueError, match="mean nothing"):
        share(*scores)


@pytest.mark.parametrize(("first", "second"), [(CAT, DOG), (DOG, CAT)])
def test_the_preferred_picture_is_chosen_with_its_share_whichever_side_it_was_on(first, second):
    for share_first in (1.0, 0.7):
        (pair,) = gathered((first, second, share_first, 1)).pairs
        assert (pair.chosen, pair.rejected, pair.preference) == (first, second, share_first)
    (pair,) = gathered((first, second, 0.3, 1)).pairs
    assert (pair.chosen, pair.rejected, pair.preference) == (second, first, 0.7)


def test_three_judgements_of_one_pair_become_one_pair_with_their_mean():
    found = gathered((CAT, DOG, 1, 1), (DOG, CAT, 0, 1), (DOG, CAT, 1, 1))
    (pair,) = found.pairs
    assert (pair.chosen, pair.preference, pair.weight) == (CAT, pytest.approx(2 / 3), 1)
    assert [(one.reason, one.count) for one in found.left_out] == [(REPEATED, 2)]


def test_the_same_judgement_twice_counts_once():
    found = gathered((CAT, DOG, 1, 2), (CAT, DOG, 1, 2))
    assert [(pair.preference, pair.weight) for pair in found.pairs] == [(1, 2)]


def test_opposite_judgements_are_a_tie():
    with pytest.raises(UserError, match=f"no pair to train on.*1 x {TIE}"):
        gathered((CAT, DOG, 1, 1), (CAT, DOG, 0, 1))


def test_other_pictures_or_another_prompt_are_another_pair():
    aggregator = PairAggregator()
    aggregator.add_judgement("a pet", CAT, DOG, 1, "0")
    aggregator.add_judgement("a  pet\n", CAT, Ref("e"), 1, "1")
    aggregator.add_judgement("two pets", CAT, DOG, 1, "2")
    assert [pair.prompt for pair in aggregator.pairs("x").pairs] == ["a pet", "a pet", "two pets"]


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=6), st.randoms())
def test_the_order_and_side_of_judgements_never_matter(shares, random):
    rows = [(CAT, DOG, one, 1) for one in shares]
    turned = [(DOG, CAT, 1 - one, 1) if random.random() < 0.5 else (CAT, DOG, one, 1) for one in shares]
    random.shuffle(turned)
    try:
        wanted = gathered(*rows).pairs
    except UserError:
        with pytest.raises(UserError):
            gathered(*turned)
    else:
        assert gathered(*turned).pairs == wanted
        assert 0.5 < wanted[0].preference <= 1


def test_all_broken_rows_come_in_one_error_that_says_how_to_go_on():
    aggregator = PairAggregator()
    aggregator.add_judgement("a pet", CAT, DOG, 1, "row 0")
    aggregator.add_judgement(" \n", CAT, DOG, 1, "row 1")
    for number in range(2, 9):
        aggregator.add_judgement("a pet", CAT, Ref("c"), 1, f"row {number}")
    with pytest.raises(UserError) as error:
        aggregator.pairs("pets")
    said = str(error.value)
    assert "8 pairs are broken in pets" in said
    assert "row 1: the caption is empty; row 2: the two pictures are identical" in said
    assert "and 3 more" in said
    assert "--bad-pairs skip" in said


def test_skip_leaves_broken_rows_out_and_lists_them():
    found = gathered((CAT, DOG, 1, 1), (CAT, CAT, 1, 1), bad="skip")
    assert len(found.pairs) == 1
    assert [(one.reason, one.count, one.examples) for one in found.left_out] == [
        ("the two pictures are identical", 1, ("row 1",))
    ]


def test_a_source_of_nothing_says_that_it_is_empty():
    with pytest.raises(UserError, match="pets holds no pair to train on: it is empty"):
        PairAggregator().pairs("pets")


def test_an_unknown_way_to_meet_broken_pairs_is_refused():
    with pytest.raises(UserError, match="stop or skip"):
        PairAggregator("ignore")


def test_a_row_of_many_votes_counts_as_many_judgements():
    aggregator = PairAggregator()
    aggregator.add_judgement("a pet", CAT, DOG, 1, "three people", votes=3)
    aggregator.add_judgement("a pet", CAT, DOG, 0, "one more")
    (pair,) = aggregator.pairs("x").pairs
    assert (pair.chosen, pair.preference, pair.weight) == (CAT, 0.75, 1)


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [
        ((True, False), 1),
        ((True, True), 1),
        ((3, 1), 4),
        ((0.7, 0.3), 1),
        ((0, 0), 1),
        ((0.2, 0.1), 1),
        ((2.5, 0), 2.5),
    ],
)
def test_scores_above_one_are_counts_of_people(scores, wanted):
    assert votes(*scores) == wanted

"""What the pairs of a ranking weigh."""

from __future__ import annotations

import math

import pytest
from mapo_studio.trainer.preferences.pairs import Pair
from mapo_studio.trainer.preferences.ranking_weights import gain_weighted, pair_gains


class Ref:
    def __init__(self, name):
        self.sha256 = name


def ranked(*tiers, name="r", weight=0.5):
    pairs = []
    for above in range(len(tiers)):
        for below in range(above + 1, len(tiers)):
            pairs += [(one, other) for one in tiers[above] for other in tiers[below]]
    return [Pair("a cat", Ref(one), Ref(other), weight=weight, ranking=name) for one, other in pairs]


def test_gains_are_those_of_the_paper():
    gain = [2**score - 1 for score in (1, 2 / 3, 1 / 3, 0)]
    discount = [1 / math.log(1 + place) for place in (1, 2, 3, 4)]
    order = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    wanted = [(gain[i] - gain[j]) * (discount[i] - discount[j]) for i, j in order]
    assert pair_gains(order) == pytest.approx(wanted)
    assert max(wanted) == wanted[order.index((0, 3))]


def test_a_ranking_weighs_as_much_as_before_and_its_ends_most():
    pairs = ranked("a", "b", "c", "d")
    weighted = gain_weighted(pairs)
    assert sum(pair.weight for pair in weighted) == pytest.approx(3)
    heaviest = max(weighted, key=lambda pair: pair.weight)
    assert (heaviest.chosen.sha256, heaviest.rejected.sha256) == ("a", "d")
    assert [pair.id for pair in weighted] == [pair.id for pair in pairs]


def test_the_best_of_many_weighs_the_same_against_each():
    assert [pair.weight for pair in gain_weighted(ranked("a", "bcd"))] == pytest.approx([0.5] * 3)


def test_two_rankings_do_not_mix_and_other_pairs_are_left_alone():
    alone = Pair("a cat", Ref("x"), Ref("y"), weight=3.0)
    first, second = ranked("a", "b", "c"), ranked("c", "b", "a", name="s")
    together = gain_weighted([alone, *first, *second])
    assert together[0] == alone
    assert together[1:4] == gain_weighted(first)
    assert together[4:] == gain_weighted(second)


def test_a_ranking_that_others_contradict_loses_no_pair():
    """a over b, b over c, c over a: nobody is ahead."""
    pairs = [Pair("a cat", Ref(one), Ref(other), weight=0.5, ranking="r") for one, other in ("ab", "bc", "ca")]
    assert gain_weighted(pairs) == tuple(pairs)

"""What judgements add up to, at the edges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapo_studio.trainer.preferences.preference import (
    BOTH_BAD,
    TIE,
    UNLABELLED,
    Preference,
    Vote,
    VoteCount,
    count_votes,
    preference,
    undecided,
)


@pytest.mark.parametrize(
    ("votes_first", "votes", "both_bad", "wanted"),
    [
        (1, 1, 0, Preference(True, 1.0, 0.5)),
        (0, 1, 0, Preference(False, 1.0, 0.5)),
        (3, 4, 0, Preference(True, 0.75, 0.5)),
        (0.7, 1, 0, Preference(True, 0.7, 0.5)),
        (1 - 0.7, 1, 0, Preference(False, 0.7, 0.5)),
        (0.1 * 3, 0.3, 0, Preference(True, 1.0, 0.5)),
        (2, 3, 2, Preference(True, 0.666666667, 0.5)),
        (0, 0, 0, UNLABELLED),
        (1, 2, 0, TIE),
        (0.15, 0.3, 0, TIE),
        (2, 2, 2, BOTH_BAD),
        (0, 0, 1, BOTH_BAD),
        (1, 2, 2, BOTH_BAD),
    ],
)
def test_votes_become_a_preference_or_the_reason_why_not(votes_first, votes, both_bad, wanted):
    reason = undecided(votes_first, votes, both_bad)
    found = preference(votes_first, votes, 0.5, both_bad)
    assert (found, reason) == ((wanted, None) if isinstance(wanted, Preference) else (None, wanted))


def test_only_who_voted_counts_for_the_weight():
    said = [Vote("left", 1.0, 1.0, 0.5), Vote("both_bad", None, 2.0, 9.0), Vote("skip", None, 1.0, 9.0)]
    assert count_votes(said) == VoteCount(answers=2, skips=1, both_bad=2.0, votes=1.0, votes_first=1.0, weight=0.5)
    assert count_votes([]) == VoteCount()


SAID = st.builds(
    Vote,
    st.sampled_from(["left", "tie", "skip", "both_bad"]),
    st.none() | st.floats(0, 1),
    st.floats(0.001, 1e6),
    st.floats(0, 10),
)


@given(st.lists(SAID), st.randoms())
def test_the_order_of_judgements_does_not_matter_to_the_last_bit(said, chance):
    mixed = list(said)
    chance.shuffle(mixed)
    assert count_votes(mixed) == count_votes(said)


@given(st.lists(SAID.filter(lambda one: one.share_first is not None), min_size=1))
def test_the_preference_lies_among_those_that_it_is_of(said):
    added = count_votes(said)
    found = preference(added.votes_first, added.votes, added.weight, added.both_bad)
    if found is not None:
        share_first = found.share if found.for_first else 1 - found.share
        shares = [one.share_first for one in said]
        assert min(shares) - 1e-6 <= share_first <= max(shares) + 1e-6
        assert 0.5 <= found.share <= 1
        assert found.weight == max(one.weight for one in said)

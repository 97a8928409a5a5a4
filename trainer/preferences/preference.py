"""What do the judgements of a pair add up to?

The share of the votes that were for one picture. A tie is half a vote for each; who found both bad, or skipped, has no
vote. The pair counts in training as much as the weightiest of its judgements, not as all of them together: a pair that
ten people were shown is not ten times as important, only better known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

UNLABELLED = "not labelled"
TIE = "tie: neither picture is preferred"
BOTH_BAD = "both bad: as many say that neither picture is any good as say which is better"


@dataclass(frozen=True)
class Vote:
    """A judgement that stands. share_first: of its votes for the pair's first picture, in [0, 1]; None: no vote."""

    answer: str
    share_first: float | None
    votes: float = 1.0
    weight: float = 1.0
    assumed: bool = False


@dataclass(frozen=True)
class VoteCount:
    """The vote columns of a pair, see `schema.Pair`."""

    answers: int = 0
    skips: int = 0
    both_bad: float = 0.0
    votes: float = 0.0
    votes_first: float = 0.0
    weight: float = 0.0
    assumed: bool = False


@dataclass(frozen=True)
class Preference:
    """share: of the votes for the preferred picture, in (0.5, 1]; weight: multiplies the pair's loss."""

    for_first: bool
    share: float
    weight: float


def count_votes(said: Iterable[Vote]) -> VoteCount:
    """Add up the judgements that stand; their order does not matter, not even to the last bit.

    What was assumed counts where nobody has said anything but "skip".
    """
    said = tuple(said)
    judged = any(not one.assumed and one.answer != "skip" for one in said)
    said = tuple(one for one in said if not (judged and one.assumed))
    voted = [one for one in said if one.share_first is not None]
    skips = sum(one.answer == "skip" for one in said)
    return VoteCount(
        answers=len(said) - skips,
        skips=skips,
        both_bad=math.fsum(one.votes for one in said if one.answer == "both_bad"),
        votes=math.fsum(one.votes for one in voted),
        votes_first=math.fsum(one.votes * one.share_first for one in voted if one.share_first is not None),
        weight=max((one.weight for one in voted), default=0.0),
        assumed=any(one.assumed for one in said),
    )


def undecided(votes_first: float, votes: float, both_bad: float = 0.0) -> str | None:
    """Why nothing can be trained on: UNLABELLED, TIE or BOTH_BAD; None where there is a preference."""
    if both_bad > 0 and both_bad >= votes:
        return BOTH_BAD
    if votes <= 0:
        return UNLABELLED
    return TIE if math.isclose(votes_first / votes, 0.5, abs_tol=1e-9) else None


def preference(votes_first: float, votes: float, weight: float, both_bad: float = 0.0) -> Preference | None:
    """What is trained on, if anything is."""
    if undecided(votes_first, votes, both_bad) is not None:
        return None
    for_first = votes_first / votes
    # Rounded: 0.7/0.3 must not become 0.7000000000000001 when the pictures' hashes sort the other way round.
    return Preference(for_first > 0.5, round(max(for_first, 1 - for_first), 9), weight)

"""The preference of a pair: what do its votes add up to? Arithmetic alone, for judgements in a database or a file.

It is the share of the votes that were for one image. A tie is half a vote for each; "both bad" and "skip" are no vote.
The pair weighs in training as much as the weightiest of its judgements, not as all of them together: a pair that ten
people were shown is not ten times as important, only better known.
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
    """A standing judgement. share_first: share of its votes for the pair's first image, in [0, 1]; None: no vote."""

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
    """share: of the votes for the chosen image, in (0.5, 1]; weight: multiplies the pair's loss."""

    for_first: bool
    share: float
    weight: float


def count_votes(votes: Iterable[Vote]) -> VoteCount:
    """Add up standing judgements; their order does not matter, not even to the last bit.

    An assumed one counts only where no person has answered more than "skip".
    """
    votes = tuple(votes)
    judged = any(not vote.assumed and vote.answer != "skip" for vote in votes)
    votes = tuple(vote for vote in votes if not (judged and vote.assumed))
    sided = [vote for vote in votes if vote.share_first is not None]
    skips = sum(vote.answer == "skip" for vote in votes)
    return VoteCount(
        answers=len(votes) - skips,
        skips=skips,
        both_bad=math.fsum(vote.votes for vote in votes if vote.answer == "both_bad"),
        votes=math.fsum(vote.votes for vote in sided),
        votes_first=math.fsum(vote.votes * vote.share_first for vote in sided if vote.share_first is not None),
        weight=max((vote.weight for vote in sided), default=0.0),
        assumed=any(vote.assumed for vote in votes),
    )


def undecided(votes_first: float, votes: float, both_bad: float = 0.0) -> str | None:
    """Why there is no preference: UNLABELLED, TIE or BOTH_BAD; None where there is one."""
    if both_bad > 0 and both_bad >= votes:
        return BOTH_BAD
    if votes <= 0:
        return UNLABELLED
    return TIE if math.isclose(votes_first / votes, 0.5, abs_tol=1e-9) else None


def preference(votes_first: float, votes: float, weight: float, both_bad: float = 0.0) -> Preference | None:
    """The preference that these sums come to; None where `undecided`."""
    if undecided(votes_first, votes, both_bad) is not None:
        return None
    share_first = votes_first / votes
    # Rounded: 0.7/0.3 must not become 0.7000000000000001 when the images' hashes sort the other way round.
    return Preference(share_first > 0.5, round(max(share_first, 1 - share_first), 9), weight)

"""How much does each pair of a ranking weigh?

As in RankDPO (Karthik et al., arXiv 2410.18013, eq. 6) by what swapping its two pictures would cost the ranking's
discounted cumulative gain: |G_i - G_j| * |1 / D_i - 1 / D_j| with G = 2**s - 1 and D = log(1 + place). The score s of a
picture, a reward model's there, is what the judgements say: 1 where it is preferred to all others, 0 where all others
are preferred to it. Pictures that were not told apart have the mean of their places.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from .pairs import Pair

_Any = TypeVar("_Any")


def gain_weighted(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """`pairs` in their order; those of one ranking weigh by their gain, and together as much as before."""
    rankings: dict[tuple[str, str], list[int]] = {}
    for position, pair in enumerate(pairs):
        if pair.ranking is not None:
            rankings.setdefault((pair.ranking, pair.prompt), []).append(position)
    weighted = list(pairs)
    for positions in rankings.values():
        of_ranking = [pairs[position] for position in positions]
        gains = pair_gains([(pair.chosen.sha256, pair.rejected.sha256) for pair in of_ranking])
        total = sum(gain * pair.weight for gain, pair in zip(gains, of_ranking, strict=True))
        # Where other judgements went against the ranking, two of its pictures may have the same score. Their pair was
        # judged all the same, and is not thrown away.
        if min(gains) > 0 and total > 0:
            scale = sum(pair.weight for pair in of_ranking) / total
            for position, gain in zip(positions, gains, strict=True):
                weighted[position] = replace(pairs[position], weight=pairs[position].weight * gain * scale)
    return tuple(weighted)


def pair_gains(pairs: Sequence[tuple[_Any, _Any]]) -> list[float]:
    """The gain of each pair (better picture, worse picture) of one ranking; see above."""
    scores = image_scores(pairs)
    gain = {picture: 2**score for picture, score in scores.items()}
    discount = {picture: 1 / math.log(1 + place) for picture, place in _places(scores).items()}
    return [abs(gain[one] - gain[other]) * abs(discount[one] - discount[other]) for one, other in pairs]


def image_scores(pairs: Iterable[tuple[_Any, _Any]]) -> dict[_Any, float]:
    """Of each picture in pairs of (better, worse), in [0, 1]: by how many of the others it is better than and worse."""
    ahead: Counter[_Any] = Counter()
    for better, worse in pairs:
        ahead[better] += 1
        ahead[worse] -= 1
    others = max(1, len(ahead) - 1)
    return {picture: (1 + ahead[picture] / others) / 2 for picture in ahead}


def _places(scores: dict[_Any, float]) -> dict[_Any, float]:
    """From 1, the best; pictures of the same score have the mean of their places."""
    order = sorted(scores.values(), reverse=True)
    first = {score: order.index(score) + 1 for score in order}
    return {picture: first[score] + (order.count(score) - 1) / 2 for picture, score in scores.items()}

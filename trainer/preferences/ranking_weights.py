"""RankDPO gains: how much does each pair of a ranking weigh?

As in RankDPO (Karthik et al., arXiv 2410.18013, eq. 6) by how much swapping its two images would cost the ranking's
discounted cumulative gain: |G_i - G_j| * |1 / D_i - 1 / D_j| with G = 2**s - 1 and D = log(1 + rank). The score s of
an image, a reward model's there, follows from the judgements: 1 where it is preferred to all others, 0 where all others
are preferred to it. Images that were ranked equal have the mean of their ranks.
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
        # Where other judgements went against the ranking, two of its images may have the same score. Their pair was
        # judged all the same, and is not thrown away.
        if min(gains) > 0 and total > 0:
            scale = sum(pair.weight for pair in of_ranking) / total
            for position, gain in zip(positions, gains, strict=True):
                weighted[position] = replace(pairs[position], weight=pairs[position].weight * gain * scale)
    return tuple(weighted)


def pair_gains(pairs: Sequence[tuple[_Any, _Any]]) -> list[float]:
    """The gain of each pair (better image, worse image) of one ranking; see above."""
    scores = image_scores(pairs)
    gain = {image: 2**score for image, score in scores.items()}
    discount = {image: 1 / math.log(1 + rank) for image, rank in _mean_ranks(scores).items()}
    return [abs(gain[one] - gain[other]) * abs(discount[one] - discount[other]) for one, other in pairs]


def image_scores(pairs: Iterable[tuple[_Any, _Any]]) -> dict[_Any, float]:
    """The score in [0, 1] of each image in pairs of (better, worse): by how many others it beats and loses to."""
    ahead: Counter[_Any] = Counter()
    for better, worse in pairs:
        ahead[better] += 1
        ahead[worse] -= 1
    others = max(1, len(ahead) - 1)
    return {image: (1 + ahead[image] / others) / 2 for image in ahead}


def _mean_ranks(scores: dict[_Any, float]) -> dict[_Any, float]:
    """Ranks from 1, the best; images of the same score have the mean of their ranks."""
    order = sorted(scores.values(), reverse=True)
    first = {score: order.index(score) + 1 for score in order}
    return {image: first[score] + (order.count(score) - 1) / 2 for image, score in scores.items()}

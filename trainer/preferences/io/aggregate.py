"""Aggregation of source rows: what do they add up to: pairs, rows left out, or an error that lists what is broken?

Every row of a reader goes into one `PairAggregator`; what counts as a preference is decided here, for all formats:

- two scores become the first image's share, score_0 / (score_0 + score_1): 1/0 and true/false say 1, 0.7/0.3 says
  0.7, three votes to one say 0.75;
- several judgements of the same two images under the same prompt are one pair; `preference` says what they add up to;
- a share of one half is a tie. Ties and rows without a judgement are counted, named and never trained on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ...errors import UserError
from ...images.image_ref import ImageRef
from ..pairs import LeftOut, Pair, PairSet, left_out, normalize_prompt
from ..preference import TIE, UNLABELLED, Vote, count_votes, preference
from .records import Reader, SourceGroup, SourceRow, Unusable

BAD_CHOICES = ("stop", "skip")
REPEATED = "further judgement of a pair that is already there; combined into one"
_NAMED = 5


@dataclass
class _JudgedPair:
    """All judgements of two images under one prompt; `first` is the one whose hash sorts first."""

    prompt: str
    first: ImageRef
    second: ImageRef
    where: str
    votes: list[Vote] = field(default_factory=list)
    captions: dict[str, str] = field(default_factory=dict)
    """Own captions of images, by their hash."""
    ranking: str | None = None
    assumed: bool = True
    """Whether all of the judgements are."""


class PairAggregator:
    """Takes rows in the source's order. bad: "stop" makes `pairs` raise if anything is broken, "skip" leaves it out."""

    def __init__(self, bad: str = "stop"):
        if bad not in BAD_CHOICES:
            raise UserError(f"broken pairs can be met with {' or '.join(BAD_CHOICES)}, not with {bad!r}")
        self._bad = bad
        self._judged: dict[tuple[str, str, str], _JudgedPair] = {}
        self._left_out: list[tuple[str, str]] = []
        self._broken: list[tuple[str, str]] = []

    def add(self, row: SourceRow | SourceGroup | Unusable) -> None:
        """A row as a reader yields it. The images of a judged one are read, hashed and measured."""
        if isinstance(row, Unusable):
            return self.broken(row.reason, row.where) if row.broken else self.leave_out(row.reason, row.where)
        if isinstance(row, SourceGroup) or row.share_0 is None:
            return self.leave_out(UNLABELLED, row.where)
        try:
            image_0, image_1 = row.image_0.at.ref(), row.image_1.at.ref()
        except UserError as error:
            return self.broken(str(error).removeprefix(f"{row.where}, "), row.where)
        own = {}
        if row.rejected_prompt and row.share_0 != 0.5:
            own = {(image_1 if row.share_0 > 0.5 else image_0).sha256: row.rejected_prompt}
        options = {"captions": own, "ranking": row.ranking, "assumed": row.assumed}
        return self.add_judgement(
            row.prompt, image_0, image_1, row.share_0, row.where, row.weight, row.votes, **options
        )

    def add_judgement(
        self,
        prompt: str,
        image_0: ImageRef,
        image_1: ImageRef,
        share_0: float,
        where: str,
        weight: float = 1.0,
        votes: float = 1.0,
        captions: Mapping[str, str] = MappingProxyType({}),
        ranking: str | None = None,
        assumed: bool = False,
    ) -> None:
        """A judgement: share_0, in [0, 1], is how far it is for image_0; the rest as in `SourceRow`.

        captions: own captions of images, by their hash.
        """
        prompt = normalize_prompt(prompt)
        if not prompt:
            return self.broken("the caption is empty", where)
        if image_0.sha256 == image_1.sha256:
            return self.broken("the two pictures are identical", where)
        if image_1.sha256 < image_0.sha256:
            image_0, image_1, share_0 = image_1, image_0, 1 - share_0
        key = (prompt, image_0.sha256, image_1.sha256)
        known = self._judged.setdefault(key, _JudgedPair(prompt, image_0, image_1, where))
        if known.votes:
            self.leave_out(REPEATED, where)
        known.votes.append(Vote("import", share_0, votes, weight))
        known.captions |= {name: normalize_prompt(text) for name, text in captions.items()}
        known.ranking = known.ranking or ranking
        known.assumed = known.assumed and assumed
        return None

    def leave_out(self, reason: str, where: str) -> None:
        """A sound row that is not trained on."""
        self._left_out.append((reason, where))

    def broken(self, reason: str, where: str) -> None:
        """A row that somebody should mend."""
        self._broken.append((reason, where))

    def pairs(self, source: str) -> PairSet:
        """Everything handed in so far. Raises UserError for broken rows (if bad is "stop") and if no pair is left."""
        if self._broken and self._bad == "stop":
            raise UserError(self._broken_sentence(source))
        pairs: list[Pair] = []
        others = [*self._left_out, *self._broken]
        for judged in self._judged.values():
            pair = _pair(judged)
            if pair is None:
                others.append((TIE, judged.where))
            else:
                pairs.append(pair)
        without = left_out(others)
        if not pairs:
            raise UserError(f"{source} holds no pair to train on: {counts(without) or 'it is empty'}")
        return PairSet(tuple(pairs), without, source)

    def _broken_sentence(self, source: str) -> str:
        named = "; ".join(f"{where}: {reason}" for reason, where in self._broken[:_NAMED])
        more = len(self._broken) - _NAMED
        rest = f"; and {more} more" if more > 0 else ""
        number = "1 pair is" if len(self._broken) == 1 else f"{len(self._broken)} pairs are"
        return (
            f"{number} broken in {source}: {named}{rest}. "
            "Mend or remove them, or say `--bad-pairs skip`: it leaves them out and lists them"
        )


@dataclass(frozen=True)
class AggregatedPairs:
    """A PairSource of the rows that a layout's reader yields. bad: see `PairAggregator`."""

    reader: Reader
    bad: str = "stop"

    def load(self) -> PairSet:
        aggregator = PairAggregator(self.bad)
        for row in self.reader.rows():
            aggregator.add(row)
        return aggregator.pairs(self.reader.source)


def share(score_0: object, score_1: object) -> float | None:
    """The first image's share in [0, 1] of two scores: one half for a tie, None if either is missing (None or NaN).

    Raises ValueError for scores that mean nothing: text, negative or infinite numbers.
    """
    scores = []
    for score in (score_0, score_1):
        if score is None or score != score:
            return None
        if not isinstance(score, (bool, int, float)) or not 0 <= score < math.inf:
            raise ValueError(f"the scores {score_0!r} and {score_1!r} mean nothing: numbers of 0 or more are needed")
        scores.append(float(score))
    total = sum(scores)
    return scores[0] / total if total else 0.5


def votes(score_0: object, score_1: object) -> float:
    """Of how many people two scores are, 1 at least. Scores that are no counts (true, false, shares) are of one."""
    scores = [float(score) for score in (score_0, score_1) if isinstance(score, (int, float)) and score == score]
    return 1.0 if isinstance(score_0, bool) or isinstance(score_1, bool) else max(1.0, round(sum(scores), 9))


def counts(without: Iterable[LeftOut]) -> str:
    """In words: ``3 x tie: neither picture is preferred; 1 x not labelled``."""
    return "; ".join(f"{one.count} x {one.reason}" for one in without)


def _pair(judged: _JudgedPair) -> Pair | None:
    count = count_votes(judged.votes)
    preferred = preference(count.votes_first, count.votes, count.weight)
    if preferred is None:
        return None
    two = (judged.first, judged.second)
    chosen, rejected = two if preferred.for_first else reversed(two)
    own = judged.captions.get(rejected.sha256)
    return Pair(
        judged.prompt,
        chosen,
        rejected,
        preferred.share,
        preferred.weight,
        own if own and own != judged.prompt else None,
        judged.ranking,
        judged.assumed,
    )

"""What has one person said of a dataset so far, without reading it all again for every pair that is shown?

Judgements are only ever appended and numbered in order, so what they come to is kept in memory and brought up to date
by the new ones. Nothing depends on it: another process, or this one started again, reads the same from the rows.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from weakref import WeakKeyDictionary

from sqlalchemy import Pool, bindparam, func, select
from sqlalchemy.orm import Session

from .pairs import normalize_prompt
from .schema import Annotator, Judgement, Pair

FIRST, SECOND, TIE, BOTH_BAD, SKIP = range(1, 6)
"""What was said of a pair, whichever side its pictures were on. 0: nothing."""

SIDED = ("judge", "repeat", "compare")
"""Purposes of judgements for which two pictures stood side by side."""

_RECENT = 400
_KEPT = 64
_ROWS_AT_ONCE = 10_000
_MOST_OF_A_BYTE = 255

_histories: WeakKeyDictionary[Pool, OrderedDict[tuple[int, int], History]] = WeakKeyDictionary()
_looking = threading.Lock()


class StandingJudgement(NamedTuple):
    """A judgement that stands. what: FIRST, SECOND, TIE, BOTH_BAD or SKIP."""

    id: int
    pair: int
    what: int
    first_on_left: bool
    purpose: str
    seconds: float | None


class _Row(NamedTuple):
    """A judgement or an undo, as it is read."""

    id: int
    pair: int
    prompt: int
    answer: str
    first_on_left: bool
    purpose: str
    seconds: float | None
    created: float
    undoes: int | None
    undone_answer: str | None
    undone_created: float | None


class History:
    """What one annotator's judgements of one dataset that stand come to. To be used within `history_of`."""

    def __init__(self, dataset_id: int, annotator_id: int | None):
        self.dataset_id = dataset_id
        self.annotator_id = annotator_id
        self.lock = threading.RLock()
        self.pairs = 0
        """Of the dataset."""
        self.seen = 0
        """Pairs that the annotator said something of, if only a skip."""
        self.judged = 0
        """Those that the annotator did not only skip."""
        self.counts: Counter[int] = Counter()
        """Judgements, by what was said."""
        self.left = self.sided = 0
        """Judgements for the picture on the left; for either side."""
        self.recent: deque[StandingJudgement] = deque(maxlen=_RECENT)
        """The newest judgements, the newest last."""
        self.repeats: dict[int, tuple[int, int]] = {}
        """By pair: what was said of it, and what when it was shown again."""
        self.ranked: Counter[int] = Counter()
        """By prompt: judgements out of rankings."""
        self.undone: dict[int, None] = {}
        """Pairs of which nothing is said any more, in the order of their undoing."""
        self.places: dict[int, tuple[int, float]] = {}
        """By number of answers: (round, shuffle) up to which the annotator had seen every such pair; the queue's."""
        self.rankable: tuple[int, frozenset[int]] = (0, frozenset())
        """Newest candidate when it was looked for, and prompts with pictures enough to rank; the queue's."""
        self._days: Counter[int] = Counter()
        self._times_seen = bytearray()
        self._times_judged = bytearray()
        self._said = bytearray()
        self._last_pair = 0
        self._last_judgement = 0

    @property
    def waiting(self) -> int:
        """Pairs that the annotator has not seen."""
        return self.pairs - self.seen

    @property
    def today(self) -> int:
        """Judgements since midnight, skips not counted."""
        return self._days[int(time.time() + time.localtime().tm_gmtoff) // 86_400]

    def has_seen(self, pair: int) -> bool:
        return pair < len(self._times_seen) and self._times_seen[pair] > 0

    def catch_up(self, session: Session, last_pair: int, last_judgement: int) -> None:
        """Take in what was added since, up to the newest of all pairs and judgements."""
        if last_pair > self._last_pair:
            self._take_pairs(session, last_pair)
        if self.annotator_id is None or last_judgement <= self._last_judgement:
            return
        asked = {"dataset": self.dataset_id, "annotator": self.annotator_id, "after": self._last_judgement}
        # Days are those of now's clock: one hour in a year may be counted to the wrong one.
        midnight = time.localtime().tm_gmtoff
        for said in session.execute(_NEW_JUDGEMENTS, asked, execution_options={"yield_per": _ROWS_AT_ONCE}):
            self._take(_Row(*said), midnight)
        self._last_judgement = last_judgement

    def _take_pairs(self, session: Session, last_pair: int) -> None:
        # At first they are counted in an index of the dataset; later only the new rows are walked.
        statement = _NEW_PAIRS if self._last_pair else _PAIRS
        added = session.scalar(statement, {"dataset": self.dataset_id, "after": self._last_pair}) or 0
        self._last_pair = last_pair
        self.pairs += added
        for times in (self._times_seen, self._times_judged, self._said):
            times.extend(bytes(last_pair + 1 - len(times)))
        if added:
            # A new pair has no answers, and may belong before those that were passed.
            self.places.pop(0, None)

    def _take(self, row: _Row, midnight: int) -> None:
        pair, by = row.pair, -1 if row.answer == "undo" else 1
        answer = row.answer if by > 0 else row.undone_answer
        what = _what(answer, row.first_on_left)
        change = _counted(self._times_seen, pair, by)
        self.seen += change
        if by > 0:
            if row.purpose == "repeat":
                self.repeats[pair] = (self._said[pair], what)
            else:
                self._said[pair] = what
            if self.undone:
                self.undone.pop(pair, None)
            self.recent.append(StandingJudgement(row.id, pair, what, row.first_on_left, row.purpose, row.seconds))
        else:
            if row.purpose == "repeat":
                self.repeats.pop(pair, None)
            if change:
                self._said[pair] = 0
                self.undone[pair] = None
            taken = next((said for said in reversed(self.recent) if said.id == row.undoes), None)
            if taken is not None:
                self.recent.remove(taken)
        self.counts[what] += by
        if row.purpose == "ranking":
            self.ranked[row.prompt] += by
        elif what in (FIRST, SECOND) and row.purpose in SIDED:
            self.sided += by
            self.left += by if answer == "left" else 0
        if what != SKIP:
            self.judged += _counted(self._times_judged, pair, by)
            self._days[int((row.created if by > 0 else row.undone_created) + midnight) // 86_400] += by


@contextmanager
def history_of(session: Session, dataset_id: int, annotator: str) -> Iterator[History]:
    """What `annotator` said of a dataset, as the session sees it. Nobody else uses it for the length of the block."""
    annotator_id, pair, judgement = session.execute(_NEWEST, {"name": normalize_prompt(annotator)}).one()
    history = _kept(session, dataset_id, annotator_id)
    with history.lock:
        history.catch_up(session, pair or 0, judgement or 0)
        yield history


def _kept(session: Session, dataset_id: int, annotator_id: int | None) -> History:
    bind = session.get_bind()
    if annotator_id is None or bind.get_execution_options().get("mapo_writes"):
        # What a transaction has written may never come to be: nothing of it is remembered.
        return History(dataset_id, annotator_id)
    with _looking:
        kept = _histories.setdefault(bind.engine.pool, OrderedDict())
        history = kept.setdefault((dataset_id, annotator_id), History(dataset_id, annotator_id))
        kept.move_to_end((dataset_id, annotator_id))
        while len(kept) > _KEPT:
            kept.popitem(last=False)
        return history


def _what(answer: str, first_on_left: bool) -> int:
    if answer in ("left", "right"):
        return FIRST if (answer == "left") == first_on_left else SECOND
    return {"tie": TIE, "both_bad": BOTH_BAD, "skip": SKIP}[answer]


def _counted(times: bytearray, pair: int, by: int) -> int:
    """Count a pair's judgements; 1 where this is its first, -1 where it was its last, else 0."""
    before = times[pair]
    times[pair] = min(max(before + by, 0), _MOST_OF_A_BYTE)
    return (times[pair] > 0) - (before > 0)


_pairs, _judgements = Pair.__table__, Judgement.__table__
_undone = _judgements.alias()

# Built once: to build them each time takes longer than the database does.
_NEWEST = select(
    select(Annotator.__table__.c.id).where(Annotator.__table__.c.name == bindparam("name")).scalar_subquery(),
    select(func.max(_pairs.c.id)).scalar_subquery(),
    select(func.max(_judgements.c.id)).scalar_subquery(),
)
_PAIRS = select(func.count()).where(_pairs.c.dataset_id == bindparam("dataset"))
_NEW_PAIRS = select(func.count()).where(
    # + 0 keeps an index of the whole dataset from being walked for a few new rows.
    _pairs.c.id > bindparam("after"),
    _pairs.c.dataset_id + 0 == bindparam("dataset"),
)
_NEW_JUDGEMENTS = (
    select(
        _judgements.c.id,
        _judgements.c.pair_id,
        _pairs.c.prompt_id,
        _judgements.c.answer,
        _judgements.c.first_on_left,
        _judgements.c.purpose,
        _judgements.c.seconds,
        _judgements.c.created,
        _judgements.c.undoes,
        _undone.c.answer,
        _undone.c.created,
    )
    .join_from(_judgements, _pairs, _pairs.c.id == _judgements.c.pair_id)
    .outerjoin(_undone, _undone.c.id == _judgements.c.undoes)
    .where(_judgements.c.annotator_id == bindparam("annotator"), _judgements.c.id > bindparam("after"))
    .where(_pairs.c.dataset_id == bindparam("dataset"))
    .order_by(_judgements.c.id)
)

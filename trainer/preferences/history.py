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

from sqlalchemy import Pool, Row, func, select
from sqlalchemy.orm import Session, aliased

from .pairs import as_prompt
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


class Said(NamedTuple):
    """A judgement that stands. what: FIRST, SECOND, TIE, BOTH_BAD or SKIP."""

    id: int
    pair: int
    what: int
    first_on_left: bool
    purpose: str
    seconds: float | None


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
        self.recent: deque[Said] = deque(maxlen=_RECENT)
        """The newest judgements, the newest last."""
        self.repeats: dict[int, tuple[int, int]] = {}
        """By pair: what was said of it, and what when it was shown again."""
        self.ranked: Counter[int] = Counter()
        """By prompt: judgements out of rankings."""
        self.undone: dict[int, None] = {}
        """Pairs of which nothing is said any more, in the order of their undoing."""
        self.places: dict[int, tuple[int, float]] = {}
        """By number of answers: (turn, shuffle) up to which the annotator had seen every such pair; the queue's."""
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
        return self._days[_day(time.time())]

    def has_seen(self, pair: int) -> bool:
        return pair < len(self._times_seen) and self._times_seen[pair] > 0

    def catch_up(self, session: Session) -> None:
        """Take in what was added since."""
        last_pair = session.scalar(select(func.max(Pair.id))) or 0
        if last_pair > self._last_pair:
            # With + 0 only the new rows are walked; without, all of the dataset in an index, which is best at first.
            dataset = Pair.dataset_id + 0 if self._last_pair else Pair.dataset_id
            new = select(func.count()).where(dataset == self.dataset_id, Pair.id <= last_pair)
            added = session.scalar(new.where(Pair.id > self._last_pair) if self._last_pair else new) or 0
            self._last_pair = last_pair
            self.pairs += added
            for times in (self._times_seen, self._times_judged, self._said):
                times.extend(bytes(last_pair + 1 - len(times)))
            if added:
                # A new pair has no answers, and may belong before those that were passed.
                self.places.pop(0, None)
        if self.annotator_id is None:
            return
        undone = aliased(Judgement)
        rows = session.execute(
            select(
                Judgement.id,
                Judgement.pair_id,
                Pair.prompt_id,
                Judgement.answer,
                Judgement.first_on_left,
                Judgement.purpose,
                Judgement.seconds,
                Judgement.created,
                undone.id.label("undone_id"),
                undone.answer.label("undone_answer"),
                undone.created.label("undone_created"),
            )
            .join(Pair, Pair.id == Judgement.pair_id)
            .outerjoin(undone, undone.id == Judgement.undoes)
            .where(Judgement.annotator_id == self.annotator_id, Judgement.id > self._last_judgement)
            .where(Pair.dataset_id == self.dataset_id)
            .order_by(Judgement.id)
            .execution_options(yield_per=_ROWS_AT_ONCE)
        )
        for row in rows:
            if row.answer == "undo":
                self._take_back(row)
            else:
                self._take_in(row)
            self._last_judgement = row.id

    def _take_in(self, row: Row) -> None:
        pair, what = row.pair_id, _what(row.answer, row.first_on_left)
        if row.purpose == "repeat":
            self.repeats[pair] = (self._said[pair], what)
        else:
            self._said[pair] = what
        self.seen += _counted(self._times_seen, pair, 1)
        self.undone.pop(pair, None)
        if row.purpose == "ranking":
            self.ranked[row.prompt_id] += 1
        self.recent.append(Said(row.id, pair, what, row.first_on_left, row.purpose, row.seconds))
        self._count(row, row.answer, row.created, 1)

    def _take_back(self, row: Row) -> None:
        pair = row.pair_id
        if row.purpose == "repeat":
            self.repeats.pop(pair, None)
        change = _counted(self._times_seen, pair, -1)
        self.seen += change
        if change:
            self._said[pair] = 0
            self.undone[pair] = None
        if row.purpose == "ranking":
            self.ranked[row.prompt_id] -= 1
        taken = next((said for said in reversed(self.recent) if said.id == row.undone_id), None)
        if taken is not None:
            self.recent.remove(taken)
        self._count(row, row.undone_answer, row.undone_created, -1)

    def _count(self, row: Row, answer: str, created: float, by: int) -> None:
        self.counts[_what(answer, row.first_on_left)] += by
        if row.purpose in SIDED and answer in ("left", "right"):
            self.sided += by
            self.left += by if answer == "left" else 0
        if answer != "skip":
            self.judged += _counted(self._times_judged, row.pair_id, by)
            self._days[_day(created)] += by


@contextmanager
def history_of(session: Session, dataset_id: int, annotator: str) -> Iterator[History]:
    """What `annotator` said of a dataset, as the session sees it. Nobody else uses it for the length of the block."""
    annotator_id = session.scalar(select(Annotator.id).where(Annotator.name == as_prompt(annotator)))
    history = _kept(session, dataset_id, annotator_id)
    with history.lock:
        history.catch_up(session)
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


def _day(seconds: float) -> int:
    return int((seconds + time.localtime(seconds).tm_gmtoff) // 86_400)

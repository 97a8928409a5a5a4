"""An annotator's history in a dataset, cached: what was judged, without reading all rows for every pair that is shown.

Judgements are only ever appended and numbered in order, so their sums are kept in memory and brought up to date by the
new ones. Nothing depends on the cache: another process, or this one restarted, reads the same from the rows.
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
"""Verdicts on a pair, whichever side its images were on. 0: none."""

SIDED = ("judge", "repeat", "compare")
"""Purposes of judgements for which two images stood side by side."""

_RECENT = 400
_MAX_HISTORIES = 64
_ROWS_PER_FETCH = 10_000
_MAX_BYTE = 255

_histories: WeakKeyDictionary[Pool, OrderedDict[tuple[int, int], History]] = WeakKeyDictionary()
_histories_lock = threading.Lock()


class StandingJudgement(NamedTuple):
    """A judgement that was not taken back. verdict: FIRST, SECOND, TIE, BOTH_BAD or SKIP."""

    id: int
    pair: int
    verdict: int
    first_on_left: bool
    purpose: str
    seconds: float | None


class _JudgementRow(NamedTuple):
    """A judgement or an undo, as `_NEW_JUDGEMENTS` selects it."""

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
    """Sums over one annotator's standing judgements of one dataset. To be used within `history_of`."""

    def __init__(self, dataset_id: int, annotator_id: int | None):
        self.dataset_id = dataset_id
        self.annotator_id = annotator_id
        self.lock = threading.RLock()
        self.pairs = 0
        """Of the dataset."""
        self.seen = 0
        """Pairs that the annotator answered, be it with a skip."""
        self.judged = 0
        """Those that were answered with more than a skip."""
        self.counts: Counter[int] = Counter()
        """Judgements by verdict."""
        self.left = self.sided = 0
        """Judgements for the image on the left; for either side."""
        self.recent: deque[StandingJudgement] = deque(maxlen=_RECENT)
        """The newest judgements, the newest last."""
        self.repeats: dict[int, tuple[int, int]] = {}
        """By pair: the verdict, and that on its repeat."""
        self.ranked: Counter[int] = Counter()
        """By prompt: judgements out of rankings."""
        self.undone: dict[int, None] = {}
        """Pairs whose every judgement was taken back, in the order of the undos."""
        self.positions: dict[int, tuple[int, float]] = {}
        """By number of answers: (round, shuffle) up to which the annotator had seen every such pair; the queue's."""
        self.rankable: tuple[int, frozenset[int]] = (0, frozenset())
        """Newest candidate at the last look, and prompts with enough images to rank; the queue's."""
        self._days: Counter[int] = Counter()
        self._times_seen = bytearray()
        self._times_judged = bytearray()
        self._verdicts = bytearray()
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
        """Add the new rows, up to the newest of all pairs and judgements."""
        if last_pair > self._last_pair:
            self._add_pairs(session, last_pair)
        if self.annotator_id is None or last_judgement <= self._last_judgement:
            return
        parameters = {"dataset": self.dataset_id, "annotator": self.annotator_id, "after": self._last_judgement}
        # Days by today's offset from UTC: one hour in a year may be counted to the wrong day.
        utc_offset = time.localtime().tm_gmtoff
        for row in session.execute(_NEW_JUDGEMENTS, parameters, execution_options={"yield_per": _ROWS_PER_FETCH}):
            self._add_judgement(_JudgementRow(*row), utc_offset)
        self._last_judgement = last_judgement

    def _add_pairs(self, session: Session, last_pair: int) -> None:
        # At first all are counted, in an index of the dataset; later only the new rows are read.
        statement = _NEW_PAIRS if self._last_pair else _PAIRS
        added = session.scalar(statement, {"dataset": self.dataset_id, "after": self._last_pair}) or 0
        self._last_pair = last_pair
        self.pairs += added
        for times in (self._times_seen, self._times_judged, self._verdicts):
            times.extend(bytes(last_pair + 1 - len(times)))
        if added:
            # A new pair has no answers, and may belong before those that were passed.
            self.positions.pop(0, None)

    def _add_judgement(self, row: _JudgementRow, utc_offset: int) -> None:
        pair, sign = row.pair, -1 if row.answer == "undo" else 1
        answer = row.answer if sign > 0 else row.undone_answer
        verdict = _verdict(answer, row.first_on_left)
        change = _change_count(self._times_seen, pair, sign)
        self.seen += change
        if sign > 0:
            if row.purpose == "repeat":
                self.repeats[pair] = (self._verdicts[pair], verdict)
            else:
                self._verdicts[pair] = verdict
            if self.undone:
                self.undone.pop(pair, None)
            self.recent.append(StandingJudgement(row.id, pair, verdict, row.first_on_left, row.purpose, row.seconds))
        else:
            if row.purpose == "repeat":
                self.repeats.pop(pair, None)
            if change:
                self._verdicts[pair] = 0
                self.undone[pair] = None
            undone = next((judgement for judgement in reversed(self.recent) if judgement.id == row.undoes), None)
            if undone is not None:
                self.recent.remove(undone)
        self.counts[verdict] += sign
        if row.purpose == "ranking":
            self.ranked[row.prompt] += sign
        elif verdict in (FIRST, SECOND) and row.purpose in SIDED:
            self.sided += sign
            self.left += sign if answer == "left" else 0
        if verdict != SKIP:
            self.judged += _change_count(self._times_judged, pair, sign)
            created = row.created if sign > 0 else row.undone_created
            self._days[int(created + utc_offset) // 86_400] += sign


@contextmanager
def history_of(session: Session, dataset_id: int, annotator: str) -> Iterator[History]:
    """The history of `annotator` in a dataset, as the session sees it. Locked for the length of the block."""
    annotator_id, pair, judgement = session.execute(_NEWEST, {"name": normalize_prompt(annotator)}).one()
    history = _cached(session, dataset_id, annotator_id)
    with history.lock:
        history.catch_up(session, pair or 0, judgement or 0)
        yield history


def _cached(session: Session, dataset_id: int, annotator_id: int | None) -> History:
    bind = session.get_bind()
    if annotator_id is None or bind.get_execution_options().get("mapo_writes"):
        # A transaction that has written may be rolled back: nothing of it is cached.
        return History(dataset_id, annotator_id)
    with _histories_lock:
        cached = _histories.setdefault(bind.engine.pool, OrderedDict())
        history = cached.setdefault((dataset_id, annotator_id), History(dataset_id, annotator_id))
        cached.move_to_end((dataset_id, annotator_id))
        while len(cached) > _MAX_HISTORIES:
            cached.popitem(last=False)
        return history


def _verdict(answer: str, first_on_left: bool) -> int:
    if answer in ("left", "right"):
        return FIRST if (answer == "left") == first_on_left else SECOND
    return {"tie": TIE, "both_bad": BOTH_BAD, "skip": SKIP}[answer]


def _change_count(counts: bytearray, pair: int, sign: int) -> int:
    """Add to a pair's count of judgements; 1 where this is its first, -1 where it was its last, else 0."""
    before = counts[pair]
    counts[pair] = min(max(before + sign, 0), _MAX_BYTE)
    return (counts[pair] > 0) - (before > 0)


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

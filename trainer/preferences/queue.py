"""Which pair is shown next, and which pictures of a prompt are ranked next?

Pairs with the fewest answers first, and of those one of every prompt, then the next of every prompt. Nobody is shown a
pair twice, but for a few that tell how steady their answers are. Held-out pairs are judged like all others.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from sqlalchemy import Column, Select, bindparam, func, select, tuple_
from sqlalchemy.orm import Session

from .annotator_history import FIRST, SECOND, History, history_of
from .schema import Candidate, Dataset, ImageRecord, Pair, Prompt

REPEAT_EVERY = 25
"""One pair in so many is one that was judged before: 4 % of the work."""
REPEAT_AFTER = 20
"""Judgements that lie between, so that the answer is not just remembered."""
_FEWEST_TO_RANK = 3

_by_chance = random.SystemRandom()


@dataclass(frozen=True)
class ImageInfo:
    """width, height: in pixels, as it is shown. ending: of its file, with the dot."""

    sha256: str
    width: int
    height: int
    ending: str


@dataclass(frozen=True)
class QueuedPair:
    """purpose: "judge", "compare", or "repeat" for a pair that this person has judged before."""

    pair: int
    prompt: str
    left: ImageInfo
    right: ImageInfo
    purpose: str


@dataclass(frozen=True)
class Group:
    """prompt: its id; pictures: in the order in which they are shown."""

    prompt: int
    text: str
    pictures: tuple[ImageInfo, ...]


@dataclass(frozen=True)
class PlannedPair:
    """A pair, by id, and how it is shown."""

    pair: int
    first_on_left: bool
    purpose: str


def next_pairs(
    session: Session,
    dataset: Dataset,
    annotator: str,
    count: int,
    exclude: Collection[int] = (),
    order: str = "spread",
) -> list[QueuedPair]:
    """Up to `count` pairs for `annotator`, in order; fewer where fewer are left.

    exclude: pairs that the page holds already. order: "useful" begins with the unjudged pairs that the newest LoRA is
    least sure of, see `Pair.abs_margin`; "spread" does not.
    """
    with history_of(session, dataset.id, annotator) as history:
        fresh = _fresh(session, history, count, set(exclude), useful=order == "useful")
        if dataset.kind == "comparison":
            return queued_pairs(session, [_plan_fresh(pair, "compare") for pair in fresh])
        return queued_pairs(session, _with_repeats(history, fresh, count, set(exclude)))


def waiting_pairs(session: Session, dataset: Dataset, annotator: str) -> int:
    """Pairs that `annotator` has not seen."""
    with history_of(session, dataset.id, annotator) as history:
        return history.waiting


def next_groups(
    session: Session, dataset: Dataset, annotator: str, count: int, size: int = 4, exclude: Collection[int] = ()
) -> list[Group]:
    """Up to `count` prompts with at least three candidates, of which `annotator` has ranked none; unjudged ones first.

    size: pictures of each, at most; drawn anew each time. exclude: prompts that the page holds already.
    """
    with history_of(session, dataset.id, annotator) as history:
        free = _unranked(session, dataset, history) - set(exclude)
        chosen: list[int] = []
        for prompt in _prompts_by_answers(session, dataset) if free else ():
            if prompt in free:
                chosen.append(prompt)
            if len(chosen) == min(count, len(free)):
                break
    return [_group(session, prompt, size) for prompt in chosen]


def waiting_groups(session: Session, dataset: Dataset, annotator: str) -> int:
    """Prompts that `annotator` could still rank the pictures of."""
    with history_of(session, dataset.id, annotator) as history:
        return len(_unranked(session, dataset, history))


def queued_pairs(session: Session, planned: Sequence[PlannedPair]) -> list[QueuedPair]:
    """What a page needs to show these pairs."""
    rows = session.execute(_SHOWN, {"pairs": [one.pair for one in planned]})
    found = {row[0]: (row[1], ImageInfo(*row[2:6]), ImageInfo(*row[6:10])) for row in rows}
    shown = []
    for one in planned:
        text, left, right = found[one.pair]
        if not one.first_on_left:
            left, right = right, left
        shown.append(QueuedPair(one.pair, text, left, right, one.purpose))
    return shown


def _fresh(session: Session, history: History, count: int, exclude: set[int], useful: bool) -> list[int]:
    """Up to `count` pairs that the annotator has not seen."""
    chosen: list[int] = []
    met: set[int] = set()
    if not history.waiting or not count:
        return chosen
    streams = chain(
        list(history.undone),
        _by_usefulness(session, history) if useful else (),
        _by_spread(session, history),
        # Others' answers may have moved pairs to where this person had passed.
        _by_spread(session, history, anew=True),
    )
    for pair in streams:
        if history.has_seen(pair) or pair in met:
            continue
        met.add(pair)
        if pair not in exclude:
            chosen.append(pair)
        # All that is left has been met: what follows need not be walked.
        if len(chosen) == count or len(met) == history.waiting:
            break
    return chosen


def _by_spread(session: Session, history: History, anew: bool = False) -> Iterator[int]:
    """The dataset's pairs, those with the fewest answers first, from the places up to which all were seen."""
    if anew:
        history.places.clear()
    for answers in _numbers_of_answers(session, history.dataset_id):
        asked = {"dataset": history.dataset_id, "answers": answers}
        passing = True
        for pair, round_number, shuffle in _walk(session, _SPREAD, asked, history.places.get(answers, (-1, 0.0))):
            passing = passing and history.has_seen(pair)
            if passing:
                history.places[answers] = round_number, shuffle
            yield pair


def _by_usefulness(session: Session, history: History) -> Iterator[int]:
    """Unjudged pairs whose margin is known, the smallest first."""
    for pair, *_ in _walk(session, _USEFUL, {"dataset": history.dataset_id}, (-1.0, 0)):
        yield pair


def _numbers_of_answers(session: Session, dataset_id: int) -> Iterator[int]:
    """Each that a pair of the dataset has, the least first: a look into the index for each."""
    answers = -1
    while (answers := session.scalar(_MORE_ANSWERS, {"dataset": dataset_id, "answers": answers})) is not None:
        yield answers


def _walk(session: Session, rows: Select, asked: dict[str, int], after: tuple[float, ...]) -> Iterator[Sequence]:
    """(anything, *keys) in the order of the keys, fetched a few at a time and then more and more."""
    at_once = 64
    while True:
        keys = {f"after_{number}": key for number, key in enumerate(after)}
        part = session.execute(rows, {**asked, **keys, "at_once": at_once}).all()
        yield from part
        if len(part) < at_once:
            return
        after = tuple(part[-1][1:])
        at_once = min(at_once * 8, 32_768)


def _with_repeats(history: History, fresh: Sequence[int], count: int, exclude: set[int]) -> list[PlannedPair]:
    """The fresh pairs, and a seen one among them where one is due."""
    held_again = any(history.has_seen(pair) for pair in exclude)
    since = _since_repeat(history) + sum(not history.has_seen(pair) for pair in exclude)
    planned: list[PlannedPair] = []
    for pair in fresh:
        # Where the page holds a repeat already, the next one is not due before that is answered.
        if since >= REPEAT_EVERY - 1 and not held_again:
            again = _repeat(history, {one.pair for one in planned})
            planned += again
            since = 0 if again else since
        planned.append(_plan_fresh(pair, "judge"))
        since += 1
    return planned[:count]


def _since_repeat(history: History) -> int:
    """Judgements since the last that was a repeat."""
    since = 0
    for said in reversed(history.recent):
        if said.purpose == "repeat":
            break
        since += said.purpose == "judge"
    return since


def _repeat(history: History, planned: set[int]) -> list[PlannedPair]:
    """What is shown again, its pictures on the other sides than before; empty where nothing can be."""
    once = [
        said
        for said in list(history.recent)[:-REPEAT_AFTER]
        if said.purpose == "judge" and said.what in (FIRST, SECOND) and said.pair not in history.repeats
    ]
    # Which one is a matter of chance, but always the same for the same person and judgements.
    once.sort(key=lambda said: hashlib.sha256(f"{history.annotator_id} {said.pair}".encode()).digest())
    return [PlannedPair(said.pair, not said.first_on_left, "repeat") for said in once if said.pair not in planned][:1]


def _plan_fresh(pair: int, purpose: str) -> PlannedPair:
    return PlannedPair(pair, _by_chance.random() < 0.5, purpose)


def _unranked(session: Session, dataset: Dataset, history: History) -> set[int]:
    if dataset.kind == "comparison":
        return set()
    newest, rankable = history.rankable
    now = session.scalar(select(func.max(Candidate.id))) or 0
    if now != newest:
        rankable = frozenset(
            session.scalars(
                select(Candidate.prompt_id)
                .join(Prompt, Prompt.id == Candidate.prompt_id)
                .where(Prompt.dataset_id == dataset.id)
                .group_by(Candidate.prompt_id)
                .having(func.count() >= _FEWEST_TO_RANK)
            )
        )
        history.rankable = now, rankable
    return {prompt for prompt in rankable if history.ranked[prompt] <= 0}


def _prompts_by_answers(session: Session, dataset: Dataset) -> Iterator[int]:
    """Prompts by the answers to their first pair, then without any order that shows, then those without pairs."""
    for answers in _numbers_of_answers(session, dataset.id):
        for prompt, _ in _walk(session, _FIRST_PAIRS, {"dataset": dataset.id, "answers": answers}, (-1.0,)):
            yield prompt
    with_pairs = select(Pair.id).where(Pair.prompt_id == Prompt.id).exists()
    yield from session.scalars(select(Prompt.id).where(Prompt.dataset_id == dataset.id, ~with_pairs))


def _group(session: Session, prompt: int, size: int) -> Group:
    pictures = session.scalars(
        select(ImageRecord).join(Candidate, Candidate.picture_id == ImageRecord.id).where(Candidate.prompt_id == prompt)
    ).all()
    drawn = _by_chance.sample(pictures, min(size, len(pictures)))
    return Group(prompt, session.get_one(Prompt, prompt).text, tuple(map(_info, drawn)))


def _info(picture: ImageRecord) -> ImageInfo:
    return ImageInfo(picture.sha256, picture.width, picture.height, picture.ending)


_pairs, _pictures = Pair.__table__, ImageRecord.__table__
_first, _second = _pictures.alias(), _pictures.alias()

# Built once: to build them each time takes longer than the database does.
_SHOWN = (
    select(
        _pairs.c.id,
        Prompt.__table__.c.text,
        *(one.c[name] for one in (_first, _second) for name in ("sha256", "width", "height", "ending")),
    )
    .join_from(_pairs, Prompt.__table__, Prompt.__table__.c.id == _pairs.c.prompt_id)
    .join(_first, _first.c.id == _pairs.c.first_id)
    .join(_second, _second.c.id == _pairs.c.second_id)
    .where(_pairs.c.id.in_(bindparam("pairs", expanding=True)))
)
_MORE_ANSWERS = select(func.min(_pairs.c.answers)).where(
    _pairs.c.dataset_id == bindparam("dataset"), _pairs.c.answers > bindparam("answers")
)


def _ordered(rows: Select, *keys: Column) -> Select:
    """The next rows after those whose keys are given."""
    after = [bindparam(f"after_{number}", type_=key.type) for number, key in enumerate(keys)]
    return (
        rows.where(_pairs.c.dataset_id == bindparam("dataset"), tuple_(*keys) > tuple_(*after))
        .order_by(*keys)
        .limit(bindparam("at_once"))
    )


_SPREAD = _ordered(
    select(_pairs.c.id, _pairs.c.round, _pairs.c.shuffle).where(_pairs.c.answers == bindparam("answers")),
    _pairs.c.round,
    _pairs.c.shuffle,
)
_FIRST_PAIRS = _ordered(
    select(_pairs.c.prompt_id, _pairs.c.shuffle).where(_pairs.c.answers == bindparam("answers"), _pairs.c.round == 0),
    _pairs.c.shuffle,
)
_USEFUL = _ordered(
    select(_pairs.c.id, _pairs.c.abs_margin, _pairs.c.id.label("again")).where(
        _pairs.c.answers == 0, _pairs.c.abs_margin.is_not(None)
    ),
    _pairs.c.abs_margin,
    _pairs.c.id,
)

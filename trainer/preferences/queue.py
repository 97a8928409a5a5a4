"""The judging queue: which pair is shown next, and which images of a prompt are ranked next?

Pairs with the fewest answers first, and of those one of every prompt, then the next of every prompt. Nobody is shown a
pair twice, but for a few repeats that measure self-agreement. Held-out pairs are judged like all others.
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
_MIN_RANKED_IMAGES = 3

_random = random.SystemRandom()


@dataclass(frozen=True)
class ImageInfo:
    """width, height: in pixels, as shown. ending: of its file, with the dot."""

    sha256: str
    width: int
    height: int
    ending: str


@dataclass(frozen=True)
class QueuedPair:
    """A pair with all a page needs. purpose: "judge", "compare", or "repeat": this annotator has judged it before."""

    pair: int
    prompt: str
    left: ImageInfo
    right: ImageInfo
    purpose: str


@dataclass(frozen=True)
class Group:
    """The images of a prompt to rank. prompt: its id; images: in the order in which they are shown."""

    prompt: int
    text: str
    images: tuple[ImageInfo, ...]


@dataclass(frozen=True)
class PlannedPair:
    """A pair, by id, and which image goes to the left."""

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
    least sure of, see `schema.Pair.abs_margin`; "spread" does not.
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

    size: images of each, at most; drawn anew each time. exclude: prompts that the page holds already.
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
    """Prompts that `annotator` could still rank the images of."""
    with history_of(session, dataset.id, annotator) as history:
        return len(_unranked(session, dataset, history))


def queued_pairs(session: Session, planned: Sequence[PlannedPair]) -> list[QueuedPair]:
    """What a page needs to show these pairs, in their order."""
    rows = session.execute(_PAIR_IMAGES, {"pairs": [plan.pair for plan in planned]})
    by_pair = {row[0]: (row[1], ImageInfo(*row[2:6]), ImageInfo(*row[6:10])) for row in rows}
    queued = []
    for plan in planned:
        prompt, left, right = by_pair[plan.pair]
        if not plan.first_on_left:
            left, right = right, left
        queued.append(QueuedPair(plan.pair, prompt, left, right, plan.purpose))
    return queued


def _fresh(session: Session, history: History, count: int, exclude: set[int], useful: bool) -> list[int]:
    """Up to `count` pairs that the annotator has not seen."""
    chosen: list[int] = []
    met: set[int] = set()
    if not history.waiting or not count:
        return chosen
    streams = chain(
        list(history.undone),
        _by_abs_margin(session, history) if useful else (),
        _by_round(session, history),
        # Others' answers may have moved pairs to where this annotator had passed.
        _by_round(session, history, restart=True),
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


def _by_round(session: Session, history: History, restart: bool = False) -> Iterator[int]:
    """The dataset's pairs, those with the fewest answers first, from the positions up to which all were seen."""
    if restart:
        history.positions.clear()
    for answers in _answer_counts(session, history.dataset_id):
        parameters = {"dataset": history.dataset_id, "answers": answers}
        all_seen = True
        for pair, round_number, shuffle in _walk(
            session, _BY_ROUND, parameters, history.positions.get(answers, (-1, 0.0))
        ):
            all_seen = all_seen and history.has_seen(pair)
            if all_seen:
                history.positions[answers] = round_number, shuffle
            yield pair


def _by_abs_margin(session: Session, history: History) -> Iterator[int]:
    """Unjudged pairs whose margin is known, the smallest first."""
    for pair, *_ in _walk(session, _BY_ABS_MARGIN, {"dataset": history.dataset_id}, (-1.0, 0)):
        yield pair


def _answer_counts(session: Session, dataset_id: int) -> Iterator[int]:
    """Every number of answers that a pair of the dataset has, ascending: one index lookup each."""
    answers = -1
    while (answers := session.scalar(_NEXT_ANSWER_COUNT, {"dataset": dataset_id, "answers": answers})) is not None:
        yield answers


def _walk(session: Session, rows: Select, parameters: dict[str, int], after: tuple[float, ...]) -> Iterator[Sequence]:
    """Keyset pagination: rows of (anything, *keys) in the order of the keys, in pages that grow."""
    page = 64
    while True:
        keys = {f"after_{number}": key for number, key in enumerate(after)}
        rows_of_page = session.execute(rows, {**parameters, **keys, "page": page}).all()
        yield from rows_of_page
        if len(rows_of_page) < page:
            return
        after = tuple(rows_of_page[-1][1:])
        page = min(page * 8, 32_768)


def _with_repeats(history: History, fresh: Sequence[int], count: int, exclude: set[int]) -> list[PlannedPair]:
    """The fresh pairs, and a repeat among them where one is due."""
    repeat_held = any(history.has_seen(pair) for pair in exclude)
    since = _since_repeat(history) + sum(not history.has_seen(pair) for pair in exclude)
    planned: list[PlannedPair] = []
    for pair in fresh:
        # Where the page holds a repeat already, the next one is not due before that is answered.
        if since >= REPEAT_EVERY - 1 and not repeat_held:
            repeats = _repeat(history, {plan.pair for plan in planned})
            planned += repeats
            since = 0 if repeats else since
        planned.append(_plan_fresh(pair, "judge"))
        since += 1
    return planned[:count]


def _since_repeat(history: History) -> int:
    """Judgements since the last that was a repeat."""
    since = 0
    for judgement in reversed(history.recent):
        if judgement.purpose == "repeat":
            break
        since += judgement.purpose == "judge"
    return since


def _repeat(history: History, planned: set[int]) -> list[PlannedPair]:
    """The pair to repeat, its images on the other sides than before; empty where there is none."""
    judged_once = [
        judgement
        for judgement in list(history.recent)[:-REPEAT_AFTER]
        if judgement.purpose == "judge" and judgement.verdict in (FIRST, SECOND)
        if judgement.pair not in history.repeats and judgement.pair not in planned
    ]
    # By a hash: random, but always the same for the same annotator and judgements.
    judged_once.sort(key=lambda one: hashlib.sha256(f"{history.annotator_id} {one.pair}".encode()).digest())
    return [PlannedPair(one.pair, not one.first_on_left, "repeat") for one in judged_once[:1]]


def _plan_fresh(pair: int, purpose: str) -> PlannedPair:
    return PlannedPair(pair, _random.random() < 0.5, purpose)


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
                .having(func.count() >= _MIN_RANKED_IMAGES)
            )
        )
        history.rankable = now, rankable
    return {prompt for prompt in rankable if history.ranked[prompt] <= 0}


def _prompts_by_answers(session: Session, dataset: Dataset) -> Iterator[int]:
    """Prompts by the answers to their first pair, then without any order that shows, then those without pairs."""
    for answers in _answer_counts(session, dataset.id):
        for prompt, _ in _walk(session, _FIRST_PAIRS, {"dataset": dataset.id, "answers": answers}, (-1.0,)):
            yield prompt
    with_pairs = select(Pair.id).where(Pair.prompt_id == Prompt.id).exists()
    yield from session.scalars(select(Prompt.id).where(Prompt.dataset_id == dataset.id, ~with_pairs))


def _group(session: Session, prompt: int, size: int) -> Group:
    candidates = session.scalars(
        select(ImageRecord).join(Candidate, Candidate.picture_id == ImageRecord.id).where(Candidate.prompt_id == prompt)
    ).all()
    sample = _random.sample(candidates, min(size, len(candidates)))
    return Group(prompt, session.get_one(Prompt, prompt).text, tuple(map(_image_info, sample)))


def _image_info(record: ImageRecord) -> ImageInfo:
    return ImageInfo(record.sha256, record.width, record.height, record.ending)


_pairs, _images = Pair.__table__, ImageRecord.__table__
_first, _second = _images.alias(), _images.alias()

# Built once: to build them each time takes longer than the database does.
_PAIR_IMAGES = (
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
_NEXT_ANSWER_COUNT = select(func.min(_pairs.c.answers)).where(
    _pairs.c.dataset_id == bindparam("dataset"), _pairs.c.answers > bindparam("answers")
)


def _ordered(rows: Select, *keys: Column) -> Select:
    """The next rows after those whose keys are given."""
    after = [bindparam(f"after_{number}", type_=key.type) for number, key in enumerate(keys)]
    return (
        rows.where(_pairs.c.dataset_id == bindparam("dataset"), tuple_(*keys) > tuple_(*after))
        .order_by(*keys)
        .limit(bindparam("page"))
    )


_BY_ROUND = _ordered(
    select(_pairs.c.id, _pairs.c.round, _pairs.c.shuffle).where(_pairs.c.answers == bindparam("answers")),
    _pairs.c.round,
    _pairs.c.shuffle,
)
_FIRST_PAIRS = _ordered(
    select(_pairs.c.prompt_id, _pairs.c.shuffle).where(_pairs.c.answers == bindparam("answers"), _pairs.c.round == 0),
    _pairs.c.shuffle,
)
_BY_ABS_MARGIN = _ordered(
    select(_pairs.c.id, _pairs.c.abs_margin, _pairs.c.id.label("again")).where(
        _pairs.c.answers == 0, _pairs.c.abs_margin.is_not(None)
    ),
    _pairs.c.abs_margin,
    _pairs.c.id,
)

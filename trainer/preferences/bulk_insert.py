"""Bulk insert: many pairs at once, with the judgements that are known of them.

The same rows as `datasets` and `judgements` would add one by one, but a few hundred in each statement.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import func, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from ..errors import UserError
from .datasets import annotator_named, prompt_digest, shuffle_of, slices
from .judgements import LEFT_SHARE, JudgementRow, check_submission, insert_judgements, recount_votes
from .pairs import normalize_prompt, split_hash
from .preference import Vote, count_votes
from .schema import ANSWERS, PURPOSES, STRENGTHS, Candidate, Dataset, ImageRecord, Judgement, Pair, Prompt

_Key = tuple[int, int, int]
"""Of a pair: ids of its prompt, first and second picture."""


@dataclass(frozen=True)
class PairRow:
    """Two images of one prompt, and one judgement of them if share_0 or answer is given.

    sequence: this judgement's number in its source, 0 or more. share_0: in [0, 1], the share of votes for image_0,
    which counts as the left one. answer: one of `schema.ANSWERS`; by default what share_0 says. votes: of how many
    people it is. weight: what the pair weighs in training. annotator: by default the one of `add_rows`. created: in
    seconds since 1970, by default now. rejected_prompt: the own caption of the image that has fewer votes. purpose:
    one of `schema.PURPOSES`; judgements of one ranking have one sequence.
    """

    prompt: str
    image_0: ImageRecord
    image_1: ImageRecord
    sequence: int
    share_0: float | None = None
    answer: str | None = None
    votes: float = 1.0
    weight: float = 1.0
    strength: str = "clearly"
    seconds: float | None = None
    annotator: str | None = None
    created: float | None = None
    rejected_prompt: str | None = None
    purpose: str = "import"

    @property
    def verdict(self) -> str | None:
        """The answer, or None where nobody judged. By default what share_0 means."""
        if self.answer is not None or self.share_0 is None:
            return self.answer
        return "tie" if self.share_0 == 0.5 else "left" if self.share_0 > 0.5 else "right"

    @property
    def share(self) -> float | None:
        """Share of the votes for image_0; None: no vote."""
        if self.share_0 is not None and self.verdict not in ("both_bad", "skip"):
            return self.share_0
        return LEFT_SHARE[self.verdict] if self.verdict else None

    @property
    def caption(self) -> tuple[ImageRecord, str] | None:
        """The image that has a caption of its own, and that caption."""
        text = normalize_prompt(self.rejected_prompt or "")
        if not text or text == normalize_prompt(self.prompt) or self.share in (None, 0.5):
            return None
        return (self.image_1 if self.share > 0.5 else self.image_0), text


@dataclass(frozen=True)
class Added:
    """How many rows are new."""

    pairs: int
    judgements: int


@dataclass
class _Known:
    """Cache of ids over the slices of one call."""

    prompts: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Prompt as given -> digest and id."""
    rounds: Counter[int] = field(default_factory=Counter)
    annotators: dict[str, int] = field(default_factory=dict)


def add_rows(
    session: Session,
    dataset: Dataset,
    rows: Sequence[PairRow],
    client: str,
    source: str = "",
    annotator: str = "import",
) -> Added:
    """Add rows within `Store.writing`, some thousands a transaction so that others can judge in between.

    client: stands for the source; the same `client` and `sequence` about the same pair are counted once, so an import
    can be repeated. source: see `schema.Pair`. annotator: of rows that name none. Raises UserError for a row that
    cannot be a pair, before anything is added.
    """
    for row in rows:
        _check(row, client)
    known = _Known()
    pairs = judgements = 0
    for some in slices(rows):
        added = _add_slice(session, dataset, some, client, source, annotator, known)
        pairs += added.pairs
        judgements += added.judgements
    return Added(pairs, judgements)


def _check(row: PairRow, client: str) -> None:
    check_submission(client, row.sequence)
    if not normalize_prompt(row.prompt):
        raise UserError(f"row {row.sequence} has an empty prompt")
    if row.image_0.sha256 == row.image_1.sha256:
        raise UserError(f"row {row.sequence} compares a picture with itself")
    if row.purpose not in PURPOSES:
        raise ValueError(f"{row.purpose!r} is none of {', '.join(PURPOSES)}")
    if row.verdict not in (*ANSWERS, None) or row.strength not in STRENGTHS:
        raise UserError(f"row {row.sequence} says {row.verdict!r}, {row.strength!r}; known are {', '.join(ANSWERS)}")
    numbers = {"share": (row.share, 1.0), "number of votes": (row.votes, 1e12), "weight": (row.weight, 1e12)}
    for name, (value, most) in numbers.items():
        if value is not None and not 0 <= value <= most:
            raise UserError(f"row {row.sequence} has a {name} of {value}: it lies between 0 and {most:g}")


def _add_slice(
    session: Session,
    dataset: Dataset,
    rows: Sequence[PairRow],
    client: str,
    source: str,
    annotator: str,
    known: _Known,
) -> Added:
    now = time.time()
    _add_prompts(session, dataset, [row.prompt for row in rows if row.prompt not in known.prompts], known)
    _add_candidates(session, rows, known, now)
    keys = [_key(row, known) for row in rows]
    ids = _pair_ids(session, set(keys))
    by_key: dict[_Key, list[PairRow]] = {}
    for key, row in zip(keys, rows, strict=True):
        by_key.setdefault(key, []).append(row)
    missing = {key: by_key[key] for key in by_key if key not in ids}
    old = set(ids.values())
    ids |= _add_pairs(session, dataset, missing, source, known, now)

    judged = {(row.sequence, ids[key]): row for key, row in zip(keys, rows, strict=True) if row.verdict is not None}
    for stored in _stored_judgements(session, client, [sequence for sequence, _ in judged]):
        judged.pop(stored, None)
    insert_judgements(
        session,
        [
            _judgement(session, row, pair, client, row.annotator or annotator, known, now)
            for (_, pair), row in judged.items()
        ],
    )
    # New pairs came with their votes.
    recount_votes(session, old & {pair for _, pair in judged})
    return Added(len(missing), len(judged))


def _add_prompts(session: Session, dataset: Dataset, texts: Iterable[str], known: _Known) -> None:
    cleaned = {given: normalize_prompt(given) for given in dict.fromkeys(texts)}
    digests = {given: prompt_digest(clean) for given, clean in cleaned.items()}
    wanted = {digests[given]: clean for given, clean in cleaned.items()}
    if not wanted:
        return
    stored = select(Prompt.digest, Prompt.id).where(Prompt.dataset_id == dataset.id, Prompt.digest.in_(wanted))
    ids = dict(session.execute(stored).all())
    counts = select(Pair.prompt_id, func.count()).where(Pair.prompt_id.in_(ids.values())).group_by(Pair.prompt_id)
    known.rounds.update(dict(session.execute(counts).all()))
    new = [
        {"dataset_id": dataset.id, "digest": digest, "text": clean, "split_hash": split_hash(clean)}
        for digest, clean in wanted.items()
        if digest not in ids
    ]
    if new:
        inserted = session.execute(insert(Prompt.__table__).returning(Prompt.digest, Prompt.id), new)
        ids |= dict(inserted.all())
    known.prompts.update({given: (digest, ids[digest]) for given, digest in digests.items()})


def _add_candidates(session: Session, rows: Sequence[PairRow], known: _Known, now: float) -> None:
    wanted = dict.fromkeys(
        (known.prompts[row.prompt][1], image.id) for row in rows for image in (row.image_0, row.image_1)
    )
    insert_of: Callable[..., Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[
        session.get_bind().dialect.name
    ]
    session.execute(
        insert_of(Candidate.__table__).on_conflict_do_nothing(),
        [{"prompt_id": prompt, "picture_id": picture, "created": now} for prompt, picture in wanted],
    )
    captions = {(known.prompts[row.prompt][1], row.caption[0].id): row.caption[1] for row in rows if row.caption}
    for (prompt, image), caption in captions.items():
        here = (Candidate.prompt_id == prompt, Candidate.picture_id == image)
        session.execute(update(Candidate).where(*here).values(caption=caption))


def _first_second(row: PairRow) -> tuple[ImageRecord, ImageRecord]:
    zero, one = row.image_0, row.image_1
    return (zero, one) if zero.sha256 < one.sha256 else (one, zero)


def _key(row: PairRow, known: _Known) -> _Key:
    first, second = _first_second(row)
    return known.prompts[row.prompt][1], first.id, second.id


def _pair_ids(session: Session, keys: Iterable[_Key]) -> dict[_Key, int]:
    # A join: for `IN` over three columns SQLite reads the whole index. The values are integers from the database.
    listed = ", ".join(f"({prompt}, {first}, {second})" for prompt, first, second in keys)
    rows = session.execute(
        text(
            f"WITH wanted (prompt, first, second) AS (VALUES {listed}) "
            "SELECT pairs.prompt_id, pairs.first_id, pairs.second_id, pairs.id FROM wanted "
            "JOIN pairs ON pairs.prompt_id = prompt AND pairs.first_id = first AND pairs.second_id = second"
        )
    )
    return {(prompt, first, second): pair for prompt, first, second, pair in rows}


def _add_pairs(
    session: Session,
    dataset: Dataset,
    missing: Mapping[_Key, Sequence[PairRow]],
    source: str,
    known: _Known,
    now: float,
) -> dict[_Key, int]:
    new = []
    for (prompt, first, second), rows in missing.items():
        votes = {row.sequence: _vote(row) for row in rows if row.verdict is not None}
        names = [image.sha256 for image in _first_second(rows[0])]
        new.append(
            {
                "dataset_id": dataset.id,
                "prompt_id": prompt,
                "first_id": first,
                "second_id": second,
                "source": source,
                "created": now,
                "round": known.rounds[prompt],
                "shuffle": shuffle_of(known.prompts[rows[0].prompt][0], *names),
                **asdict(count_votes(votes.values())),
            }
        )
        known.rounds[prompt] += 1
    if not new:
        return {}
    columns = (Pair.prompt_id, Pair.first_id, Pair.second_id, Pair.id)
    inserted = session.execute(insert(Pair.__table__).returning(*columns), new)
    return {(prompt, first, second): pair for prompt, first, second, pair in inserted}


def _vote(row: PairRow) -> Vote:
    share = row.share
    zero_is_first = _first_second(row)[0] is row.image_0
    share_first = share if share is None or zero_is_first else 1 - share
    return Vote(row.verdict or "", share_first, row.votes, row.weight, row.purpose == "assumed")


def _stored_judgements(session: Session, client: str, sequences: Sequence[int]) -> Iterable[tuple[int, int]]:
    stored = select(Judgement.sequence, Judgement.pair_id)
    rows = session.execute(stored.where(Judgement.client == client, Judgement.sequence.in_(sequences)))
    return [(sequence, pair) for sequence, pair in rows]


def _judgement(
    session: Session, row: PairRow, pair: int, client: str, annotator: str, known: _Known, now: float
) -> JudgementRow:
    if annotator not in known.annotators:
        known.annotators[annotator] = annotator_named(session, annotator).id
    return JudgementRow(
        pair_id=pair,
        annotator_id=known.annotators[annotator],
        answer=row.verdict or "",
        strength=row.strength,
        first_on_left=_first_second(row)[0] is row.image_0,
        share_left=row.share,
        votes=row.votes,
        weight=row.weight,
        seconds=row.seconds,
        purpose=row.purpose,
        client=client,
        sequence=row.sequence,
        created=now if row.created is None else row.created,
    )

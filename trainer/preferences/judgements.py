"""Judgements: how are answers, rankings and undos stored and added to the votes of their pairs?

Rows are only ever appended. A pair's vote columns are recounted from all of its rows whenever one is appended, in the
same transaction; `Store.writing` lets one writer in at a time. Everything here is to be called within it. The
arithmetic of votes is in preference.py: pairs in files are added up in the same way, without a database.
"""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields

from sqlalchemy import insert, select
from sqlalchemy.orm import Session, aliased

from ..errors import UserError
from .datasets import annotator_named, pairs_between, slices
from .pairs import normalize_prompt
from .preference import Vote, VoteCount, count_votes
from .schema import ANSWERS, STRENGTHS, Annotator, Candidate, ImageRecord, Judgement, Pair, Prompt

WEIGHTS = {"clearly": 1.0, "slightly": 0.5}
LEFT_SHARE = {"left": 1.0, "right": 0.0, "tie": 0.5, "both_bad": None, "skip": None}
_PURPOSES = ("judge", "repeat", "compare")
_MAX_SEQUENCE = 2**63 - 1
_UNDOING = aliased(Judgement)  # to build it anew takes longer than the query


class SequenceTaken(UserError):
    """A client's running number under which something else is stored: the same submission needs another number."""

    def __init__(self, sequence: int) -> None:
        super().__init__(f"number {sequence} of this page is that of another judgement: it needs a new number")


@dataclass(frozen=True)
class Answer:
    """An annotator's answer to a pair. left: SHA-256 of the image that was shown on the left.

    answer: one of `schema.ANSWERS`. strength: "slightly" or "clearly". seconds: from the pair being visible to the
    answer. client, sequence: the page that sends it, and its running number there; sent again, it changes nothing.
    """

    pair: int
    left: str
    answer: str
    strength: str
    seconds: float | None
    client: str
    sequence: int
    purpose: str = "judge"

    @classmethod
    def copy_of(cls, judgement: Judgement, pair: int, left: str, client: str, purpose: str) -> Answer:
        """The answer of a stored judgement, for a copy of its pair. Its id there is the running number here."""
        changed = {"pair": pair, "left": left, "client": client, "sequence": judgement.id, "purpose": purpose}
        return cls(
            **{one.name: getattr(judgement, one.name) for one in fields(cls) if one.name not in changed} | changed
        )


@dataclass(frozen=True)
class JudgementRow:
    """The columns of one `schema.Judgement`, which explains them, but for its id: all that is ever inserted there.

    A column that is added gets a field with a default here; what comes from a page also has one in `Answer`.
    """

    pair_id: int
    annotator_id: int
    answer: str
    first_on_left: bool
    share_left: float | None
    purpose: str
    client: str
    sequence: int
    strength: str = "clearly"
    votes: float = 1.0
    weight: float = 1.0
    seconds: float | None = None
    undoes: int | None = None
    created: float = field(default_factory=time.time)


def insert_judgements(session: Session, rows: Sequence[JudgementRow]) -> None:
    """The one INSERT of judgements. The vote columns of their pairs are left to `recount_votes`."""
    if rows:
        session.execute(insert(Judgement.__table__), [vars(row) for row in rows])


def answer(session: Session, annotator: str, given: Answer) -> bool:
    """Append a judgement. False where it is there already: sent again, it counts once.

    Raises UserError where there is no such pair, or the answer is not valid for it, and SequenceTaken where this
    client's number is that of something else.
    """
    check_submission(given.client, given.sequence)
    for value, known in ((given.answer, ANSWERS), (given.strength, STRENGTHS), (given.purpose, _PURPOSES)):
        if value not in known:
            raise UserError(f"{value!r} is none of {', '.join(known)}")
    if stored := _stored(session, given.client, given.sequence):
        same = (given.pair, given.answer, given.purpose)
        if [(row.pair_id, row.answer, row.purpose) for row in stored] != [same]:
            raise SequenceTaken(given.sequence)
        return False
    pair = session.get(Pair, given.pair)
    if pair is None:
        raise UserError(f"there is no pair {given.pair}: load the page again")
    first, second = (session.get_one(ImageRecord, number).sha256 for number in (pair.first_id, pair.second_id))
    if given.left not in (first, second):
        raise UserError(f"pair {given.pair} does not have the picture {given.left}: load the page again")
    row = JudgementRow(
        pair_id=pair.id,
        annotator_id=annotator_named(session, annotator).id,
        answer=given.answer,
        strength=given.strength,
        first_on_left=given.left == first,
        share_left=LEFT_SHARE[given.answer],
        weight=WEIGHTS[given.strength],
        seconds=_valid_seconds(given.seconds),
        purpose=given.purpose,
        client=given.client,
        sequence=given.sequence,
    )
    insert_judgements(session, [row])
    recount_votes(session, [pair.id])
    return True


def undo(session: Session, annotator: str, client: str, sequence: int, undoes: int) -> bool:
    """Take back what this client submitted under the number `undoes`: an answer, or all of a ranking.

    True where it is taken back now, by this undo or an earlier one. False, and nothing is written, where there is no
    such submission of this annotator (yet), or it is itself an undo.
    """
    check_submission(client, sequence)
    taken_back = aliased(Judgement)
    submitted = session.execute(
        select(Judgement, taken_back.id)
        .join(Annotator, Annotator.id == Judgement.annotator_id)
        .outerjoin(taken_back, taken_back.undoes == Judgement.id)
        .where(Judgement.client == client, Judgement.sequence == undoes, Judgement.answer != "undo")
        .where(Annotator.name == normalize_prompt(annotator))
        .order_by(Judgement.id)
    ).all()
    standing = [judgement for judgement, undone_by in submitted if undone_by is None]
    if not standing:
        return bool(submitted)
    if _stored(session, client, sequence):
        return False  # the number is that of another submission
    rows = [
        JudgementRow(
            pair_id=judgement.pair_id,
            annotator_id=judgement.annotator_id,
            answer="undo",
            strength=judgement.strength,
            first_on_left=judgement.first_on_left,
            share_left=None,
            votes=0.0,
            weight=0.0,
            purpose=judgement.purpose,
            client=client,
            sequence=sequence,
            undoes=judgement.id,
        )
        for judgement in standing
    ]
    insert_judgements(session, rows)
    recount_votes(session, [row.pair_id for row in rows])
    return True


def rank(
    session: Session,
    annotator: str,
    prompt_id: int,
    tiers: Sequence[Sequence[str]],
    client: str,
    sequence: int,
    seconds: float | None,
) -> int:
    """Append a ranking of a prompt's images, best tier first: one judgement for any two of different tiers.

    tiers: SHA-256 of the images; [[best], the others] says only which is best. Of k images each judgement weighs
    2 / k: k (k - 1) / 2 of them tell what k - 1 comparisons do. Returns how many were appended, 0 where it is there
    already. Raises UserError for what is no ranking of this prompt's images, and SequenceTaken where this client's
    number is that of something else.
    """
    check_submission(client, sequence)
    prompt = session.get(Prompt, prompt_id)
    if prompt is None:
        raise UserError(f"there is no prompt {prompt_id}: load the page again")
    names = [name for tier in tiers for name in tier]
    if len(set(names)) != len(names):
        raise UserError("a picture is in the ranking twice: rank each once")
    if sum(1 for tier in tiers if tier) < 2:
        raise UserError("a ranking needs pictures on two levels at least")
    images = _candidates(session, prompt, names)
    better = [
        (images[preferred], images[other])
        for above, below in itertools.combinations(tiers, 2)
        for preferred, other in itertools.product(above, below)
    ]
    pairs = pairs_between(session, prompt, better)
    if stored := _stored(session, client, sequence):
        same = {
            (pair.id, "left" if pair.first_id == preferred.id else "right", "ranking")
            for pair, (preferred, _) in zip(pairs, better, strict=True)
        }
        if {(row.pair_id, row.answer, row.purpose) for row in stored} != same:
            raise SequenceTaken(sequence)
        return 0
    annotator_id = annotator_named(session, annotator).id
    total_seconds = _valid_seconds(seconds)
    rows = [
        JudgementRow(
            pair_id=pair.id,
            annotator_id=annotator_id,
            answer="left" if pair.first_id == preferred.id else "right",
            first_on_left=True,  # a ranking has no sides
            share_left=1.0 if pair.first_id == preferred.id else 0.0,
            weight=2 / len(names),
            seconds=None if total_seconds is None else total_seconds / len(better),
            purpose="ranking",
            client=client,
            sequence=sequence,
        )
        for pair, (preferred, _) in zip(pairs, better, strict=True)
    ]
    insert_judgements(session, rows)
    recount_votes(session, [row.pair_id for row in rows])
    return len(better)


def recount_votes(session: Session, pairs: Iterable[int]) -> None:
    """Set the vote columns of these pairs, by id, to the sums of their standing judgements."""
    session.flush()
    for some in slices(sorted(set(pairs))):
        counts = vote_counts(session, some)
        for pair in session.scalars(select(Pair).where(Pair.id.in_(some)).execution_options(populate_existing=True)):
            for column, value in asdict(counts[pair.id]).items():
                setattr(pair, column, value)
        session.flush()


def vote_counts(session: Session, pairs: Collection[int]) -> dict[int, VoteCount]:
    """The standing judgements added up, by pair; counted from the rows. At most a few hundred pairs."""
    rows = session.execute(
        select(
            Judgement.pair_id,
            Judgement.answer,
            Judgement.first_on_left,
            Judgement.share_left,
            Judgement.votes,
            Judgement.weight,
            Judgement.purpose,
        )
        .outerjoin(_UNDOING, _UNDOING.undoes == Judgement.id)
        .where(Judgement.pair_id.in_(pairs), Judgement.answer != "undo", _UNDOING.id.is_(None))
    )
    votes: dict[int, list[Vote]] = {pair: [] for pair in pairs}
    for row in rows:
        share = row.share_left
        share_first = share if share is None or row.first_on_left else 1 - share
        votes[row.pair_id].append(Vote(row.answer, share_first, row.votes, row.weight, row.purpose == "assumed"))
    return {pair: count_votes(of_pair) for pair, of_pair in votes.items()}


def check_submission(client: str, sequence: int) -> None:
    """Raises UserError for a client or a number that its column cannot hold."""
    if not re.fullmatch(r"[\x20-\x7e]{1,64}", client):
        raise UserError("a judgement names the page it comes from with 1 to 64 plain characters")
    if not 0 <= sequence <= _MAX_SEQUENCE:
        raise UserError(f"a judgement's running number lies between 0 and {_MAX_SEQUENCE}, not at {sequence}")


def _candidates(session: Session, prompt: Prompt, names: Collection[str]) -> dict[str, ImageRecord]:
    records = session.scalars(
        select(ImageRecord)
        .join(Candidate, Candidate.picture_id == ImageRecord.id)
        .where(Candidate.prompt_id == prompt.id, ImageRecord.sha256.in_(names))
    )
    candidates = {record.sha256: record for record in records}
    for name in names:
        if name not in candidates:
            raise UserError(f"{name} is no picture of this prompt: load the page again")
    return candidates


def _stored(session: Session, client: str, sequence: int) -> Sequence[Judgement]:
    """What is stored under this number of this client's."""
    same = (Judgement.client == client, Judgement.sequence == sequence)
    return session.scalars(select(Judgement).where(*same).order_by(Judgement.id)).all()


def _valid_seconds(seconds: float | None) -> float | None:
    """None for a time that a clock set back has made impossible: the judgement itself is good."""
    return seconds if seconds is not None and 0 <= seconds < math.inf else None

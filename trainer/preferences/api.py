"""What may the judging element ask and say, and what is answered? The contract, without a transport.

Every function takes the store, a checked request and the name of who asks, and returns a reply. A transport makes
requests of JSON or of a query's words by `model_validate`, and answers pydantic's ValidationError and UserError with
their sentences. Prompts are data: they travel as JSON strings, whatever is in them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from ..errors import UserError
from . import judgements
from .datasets import find_dataset
from .images import image_path
from .pairs import normalize_prompt
from .queue import (
    Group,
    ImageInfo,
    PlannedPair,
    QueuedPair,
    next_groups,
    next_pairs,
    queued_pairs,
    waiting_groups,
    waiting_pairs,
)
from .schema import Annotator, ImageRecord, Judgement
from .statistics import statistics_of
from .store import Store

_Submission = TypeVar("_Submission", "AnswerIn", "RankingIn")

Number = Annotated[int, Field(ge=1, lt=2**63)]
"""Of a row: a pair or a prompt."""
RunningNumber = Annotated[int, Field(ge=0, lt=2**63)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Client = Annotated[str, Field(min_length=1, max_length=64)]
Excluded = Annotated[tuple[Number, ...], Field(max_length=10_000)]
"""What the page holds already, or has answered without being heard yet."""


class Query(BaseModel):
    """May be made of a query, whose numbers are words."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Body(Query):
    """Made of JSON: a number is a number."""

    model_config = ConfigDict(strict=True)


class NextRequest(Query):
    dataset: Name
    count: int = Field(8, ge=1, le=64)
    exclude: Excluded = ()
    order: Literal["spread", "useful"] = "spread"


class GroupsRequest(Query):
    dataset: Name
    count: int = Field(4, ge=1, le=64)
    size: int = Field(4, ge=3, le=9)
    """Pictures of a group, at most."""
    exclude: Excluded = ()
    """Prompts."""


class StatisticsRequest(Query):
    dataset: Name


class AnswerIn(Body):
    pair: Number
    left: Sha256
    answer: Literal["left", "right", "tie", "both_bad", "skip"]
    strength: Literal["slightly", "clearly"] = "clearly"
    seconds: float | None = None
    client: Client
    sequence: RunningNumber
    purpose: Literal["judge", "repeat", "compare"] = "judge"


class AnswersRequest(Body):
    answers: list[AnswerIn] = Field(max_length=64)


class RankingIn(Body):
    prompt: Number
    tiers: list[Annotated[list[Sha256], Field(max_length=9)]] = Field(max_length=9)
    """Best first; pictures that share a tier were not told apart."""
    seconds: float | None = None
    client: Client
    sequence: RunningNumber


class RankingsRequest(Body):
    rankings: list[RankingIn] = Field(max_length=64)


class UndoRequest(Body):
    client: Client
    sequence: RunningNumber
    """Of the undo itself."""
    undoes: RunningNumber
    """Of the submission that is taken back."""


class ImageOut(BaseModel):
    """id: SHA-256 of the file, by which it is fetched. width, height: in pixels, as it is shown."""

    id: str
    width: int
    height: int


class PairOut(BaseModel):
    pair: int
    prompt: str
    purpose: str
    left: ImageOut
    right: ImageOut


class NextReply(BaseModel):
    pairs: list[PairOut]
    waiting: int
    """Pairs that this person could still judge, those of the reply and of `exclude` counted."""


class GroupOut(BaseModel):
    prompt: int
    text: str
    pictures: list[ImageOut]


class GroupsReply(BaseModel):
    groups: list[GroupOut]
    waiting: int
    """Prompts that this person could still rank, those of the reply and of `exclude` counted."""


class Refused(BaseModel):
    sequence: int
    why: str


class AnswersReply(BaseModel):
    """stored: what is on the disk now, whether it came with this request or an earlier one."""

    stored: list[int]
    refused: list[Refused]


class UndoReply(BaseModel):
    undone: bool
    pair: PairOut | None = None
    """What was taken back, as it was shown; null for a ranking."""


class StatisticsReply(BaseModel):
    """See `statistics.Statistics`."""

    judged: int
    waiting: int
    pairs: int
    prompts: int
    today: int
    pace_per_minute: float | None
    repeated: int
    self_agreement: float | None
    self_agreement_low: float | None
    self_agreement_high: float | None
    shared: int
    agreement: float | None
    ties: int
    both_bad: int
    skips: int
    left_share: float | None
    trainable: int
    held_out_pairs: int
    held_out_prompts: int
    assumed: int
    sentence: str


def next(store: Store, asked: NextRequest, annotator: str) -> NextReply:
    """Pairs to judge. Raises UserError where there is no such dataset."""
    with store.reading() as session:
        dataset = find_dataset(session, asked.dataset)
        found = next_pairs(session, dataset, annotator, asked.count, asked.exclude, asked.order)
        return NextReply(pairs=[_pair(one) for one in found], waiting=waiting_pairs(session, dataset, annotator))


def groups(store: Store, asked: GroupsRequest, annotator: str) -> GroupsReply:
    """Prompts to rank the pictures of. Raises UserError where there is no such dataset."""
    with store.reading() as session:
        dataset = find_dataset(session, asked.dataset)
        found = next_groups(session, dataset, annotator, asked.count, asked.size, asked.exclude)
        return GroupsReply(groups=[_group(one) for one in found], waiting=waiting_groups(session, dataset, annotator))


def answers(store: Store, asked: AnswersRequest, annotator: str) -> AnswersReply:
    """Keep answers. One that cannot be kept is refused with its reason, and the others are kept nevertheless."""
    return _kept(
        store, asked.answers, lambda session, one: judgements.answer(session, annotator, judgements.Answer(**dict(one)))
    )


def rankings(store: Store, asked: RankingsRequest, annotator: str) -> AnswersReply:
    """Keep rankings, as `answers` does."""

    def rank(session: Session, one: RankingIn) -> None:
        judgements.rank(session, annotator, one.prompt, one.tiers, one.client, one.sequence, one.seconds)

    return _kept(store, asked.rankings, rank)


def undo(store: Store, asked: UndoRequest, annotator: str) -> UndoReply:
    """Take back a submission of this person's. `undone` is false where there is none such."""
    with store.writing() as session:
        undone = judgements.undo(session, annotator, asked.client, asked.sequence, asked.undoes)
        return UndoReply(undone=undone, pair=_taken_back(session, annotator, asked) if undone else None)


def statistics(store: Store, asked: StatisticsRequest, annotator: str) -> StatisticsReply:
    """How far this person is. Raises UserError where there is no such dataset."""
    with store.reading() as session:
        found = statistics_of(session, find_dataset(session, asked.dataset), annotator)
    told = {name: value for name, value in vars(found).items() if name in StatisticsReply.model_fields}
    return StatisticsReply(**told, sentence=found.sentence)


def image_file(store: Store, sha256: str) -> Path:
    """The file of a picture, whose bytes never change. Raises UserError where there is none of that name."""
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise UserError("this is not the name of a picture")
    with store.reading() as session:
        found = session.scalar(select(ImageRecord).where(ImageRecord.sha256 == sha256))
    path = image_path(store, found) if found else None
    if path is None or not path.is_file():
        raise UserError("this picture is not in the workspace, or not any more")
    return path


READ: dict[str, tuple[type[BaseModel], Callable[..., BaseModel]]] = {
    "next": (NextRequest, next),
    "statistics": (StatisticsRequest, statistics),
    "groups": (GroupsRequest, groups),
}
"""Routes that are asked by a query: what is asked, and who answers (store, request, annotator)."""
WRITE: dict[str, tuple[type[BaseModel], Callable[..., BaseModel]]] = {
    "answers": (AnswersRequest, answers),
    "undo": (UndoRequest, undo),
    "rankings": (RankingsRequest, rankings),
}
"""Routes that something is said to, in JSON."""
IMAGE_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
    ".avif": "image/avif",
}
"""What browsers show, by the ending of `picture`."""


def from_query(asked: type[BaseModel], query: Mapping[str, str]) -> BaseModel:
    """A request of a query's words, in which `exclude` is a list of numbers. Raises pydantic's ValidationError."""
    said: dict[str, object] = dict(query)
    if "exclude" in said:
        said["exclude"] = [number for number in query["exclude"].split(",") if number]
    return asked.model_validate(said)


def _kept(store: Store, said: Sequence[_Submission], keep: Callable[[Session, _Submission], object]) -> AnswersReply:
    reply = AnswersReply(stored=[], refused=[])
    # One transaction: a browser that was away has fifty answers, and the disk is waited for once.
    with store.writing() as session:
        for one in said:
            why = _refusal(session, lambda one=one: keep(session, one))
            if why is None:
                reply.stored.append(one.sequence)
            else:
                reply.refused.append(Refused(sequence=one.sequence, why=why))
    return reply


def _refusal(session: Session, keep: Callable[[], object]) -> str | None:
    """Keep one; or, as if it had never been tried, why it cannot be kept."""
    try:
        with session.begin_nested():
            keep()
    except UserError as error:
        return str(error)
    return None


def _taken_back(session: Session, annotator: str, asked: UndoRequest) -> PairOut | None:
    rows = session.scalars(
        select(Judgement)
        .join(Annotator, Annotator.id == Judgement.annotator_id)
        .where(Judgement.client == asked.client, Judgement.sequence == asked.undoes)
        .where(Annotator.name == normalize_prompt(annotator), Judgement.purpose != "ranking")
    ).all()
    if len(rows) != 1:
        return None
    [said] = rows
    return _pair(queued_pairs(session, [PlannedPair(said.pair_id, said.first_on_left, said.purpose)])[0])


def _pair(shown: QueuedPair) -> PairOut:
    return PairOut(
        pair=shown.pair,
        prompt=shown.prompt,
        purpose=shown.purpose,
        left=_picture(shown.left),
        right=_picture(shown.right),
    )


def _group(group: Group) -> GroupOut:
    return GroupOut(prompt=group.prompt, text=group.text, pictures=[_picture(one) for one in group.pictures])


def _picture(info: ImageInfo) -> ImageOut:
    return ImageOut(id=info.sha256, width=info.width, height=info.height)

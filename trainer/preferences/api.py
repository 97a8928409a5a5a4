"""The API of the judging element: its requests and replies, without a transport.

Every function takes the store, a validated request and the annotator's name, and returns a reply. A transport makes
requests from JSON or from a query string by `model_validate` and `from_query`, and answers UserError with its sentence,
pydantic's ValidationError with that of config.validation. Prompts are data: they travel as JSON strings.
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
"""The id of a pair or a prompt."""
RunningNumber = Annotated[int, Field(ge=0, lt=2**63)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Client = Annotated[str, Field(min_length=1, max_length=64)]
Excluded = Annotated[tuple[Number, ...], Field(max_length=10_000)]
"""What the page holds already, or has answered in requests that have not arrived yet."""


class Query(BaseModel):
    """A request that may be a query string, in which numbers are text."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Body(Query):
    """A request in JSON: a number must be a number."""

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
    """Images of a group, at most."""
    exclude: Excluded = ()
    """Ids of prompts."""


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
    """Best first; images of one tier were ranked equal."""
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
    """id: SHA-256 of the file, by which it is fetched. width, height: in pixels, as shown."""

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
    taken: bool = False
    """Something else is stored under this number: the same submission is welcome under another one."""


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


def next(store: Store, query: NextRequest, annotator: str) -> NextReply:
    """Pairs to judge. Raises UserError where there is no such dataset."""
    with store.reading() as session:
        dataset = find_dataset(session, query.dataset)
        pairs = next_pairs(session, dataset, annotator, query.count, query.exclude, query.order)
        return NextReply(pairs=[_pair_out(pair) for pair in pairs], waiting=waiting_pairs(session, dataset, annotator))


def groups(store: Store, query: GroupsRequest, annotator: str) -> GroupsReply:
    """Prompts to rank the images of. Raises UserError where there is no such dataset."""
    with store.reading() as session:
        dataset = find_dataset(session, query.dataset)
        prompts = next_groups(session, dataset, annotator, query.count, query.size, query.exclude)
        waiting = waiting_groups(session, dataset, annotator)
        return GroupsReply(groups=[_group_out(group) for group in prompts], waiting=waiting)


def answers(store: Store, body: AnswersRequest, annotator: str) -> AnswersReply:
    """Store answers. One that is invalid is refused with its reason, and the others are stored nevertheless."""

    def add(session: Session, answer: AnswerIn) -> None:
        judgements.answer(session, annotator, judgements.Answer(**dict(answer)))

    return _store_each(store, body.answers, add)


def rankings(store: Store, body: RankingsRequest, annotator: str) -> AnswersReply:
    """Store rankings, as `answers` does."""

    def add(session: Session, ranking: RankingIn) -> None:
        submission = (ranking.client, ranking.sequence, ranking.seconds)
        judgements.rank(session, annotator, ranking.prompt, ranking.tiers, *submission)

    return _store_each(store, body.rankings, add)


def undo(store: Store, body: UndoRequest, annotator: str) -> UndoReply:
    """Take back a submission of this annotator's. `undone` is false where there is no such submission."""
    with store.writing() as session:
        undone = judgements.undo(session, annotator, body.client, body.sequence, body.undoes)
        return UndoReply(undone=undone, pair=_undone_pair(session, annotator, body) if undone else None)


def statistics(store: Store, query: StatisticsRequest, annotator: str) -> StatisticsReply:
    """How far this annotator is. Raises UserError where there is no such dataset."""
    with store.reading() as session:
        numbers = statistics_of(session, find_dataset(session, query.dataset), annotator)
    reply = {name: value for name, value in vars(numbers).items() if name in StatisticsReply.model_fields}
    return StatisticsReply(**reply, sentence=numbers.sentence)


def image_file(store: Store, sha256: str) -> Path:
    """The file of an image, whose bytes never change. Raises UserError where there is none of that name."""
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise UserError("this is not the name of a picture")
    with store.reading() as session:
        record = session.scalar(select(ImageRecord).where(ImageRecord.sha256 == sha256))
    path = image_path(store, record) if record else None
    if path is None or not path.is_file():
        raise UserError("this picture is not in the workspace, or not any more")
    return path


READ: dict[str, tuple[type[BaseModel], Callable[..., BaseModel]]] = {
    "next": (NextRequest, next),
    "statistics": (StatisticsRequest, statistics),
    "groups": (GroupsRequest, groups),
}
"""Routes of GET with a query string: (model of the request, function of store, request and annotator)."""
WRITE: dict[str, tuple[type[BaseModel], Callable[..., BaseModel]]] = {
    "answers": (AnswersRequest, answers),
    "undo": (UndoRequest, undo),
    "rankings": (RankingsRequest, rankings),
}
"""Routes of POST with JSON, likewise."""
IMAGE_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
    ".avif": "image/avif",
}
"""What browsers show, by the suffix of `image_file`."""


def from_query(model: type[BaseModel], query: Mapping[str, str]) -> BaseModel:
    """A request from a query string; `exclude` is a comma-separated list. Raises pydantic's ValidationError."""
    values: dict[str, object] = dict(query)
    if "exclude" in values:
        values["exclude"] = [number for number in query["exclude"].split(",") if number]
    return model.model_validate(values)


def _store_each(
    store: Store, submissions: Sequence[_Submission], add: Callable[[Session, _Submission], object]
) -> AnswersReply:
    reply = AnswersReply(stored=[], refused=[])
    # One transaction: a browser that was offline has fifty answers, and the disk is waited for once.
    with store.writing() as session:
        for submission in submissions:
            refusal = _refusal(session, lambda submission=submission: add(session, submission))
            if refusal is None:
                reply.stored.append(submission.sequence)
            else:
                taken = isinstance(refusal, judgements.SequenceTaken)
                reply.refused.append(Refused(sequence=submission.sequence, why=str(refusal), taken=taken))
    return reply


def _refusal(session: Session, add: Callable[[], object]) -> UserError | None:
    """Add a submission; or roll it back, and why it cannot be stored."""
    try:
        with session.begin_nested():
            add()
    except UserError as error:
        return error
    return None


def _undone_pair(session: Session, annotator: str, body: UndoRequest) -> PairOut | None:
    rows = session.scalars(
        select(Judgement)
        .join(Annotator, Annotator.id == Judgement.annotator_id)
        .where(Judgement.client == body.client, Judgement.sequence == body.undoes)
        .where(Annotator.name == normalize_prompt(annotator), Judgement.purpose != "ranking")
    ).all()
    if len(rows) != 1:
        return None
    [judgement] = rows
    plan = PlannedPair(judgement.pair_id, judgement.first_on_left, judgement.purpose)
    return _pair_out(queued_pairs(session, [plan])[0])


def _pair_out(pair: QueuedPair) -> PairOut:
    return PairOut(
        pair=pair.pair,
        prompt=pair.prompt,
        purpose=pair.purpose,
        left=_image_out(pair.left),
        right=_image_out(pair.right),
    )


def _group_out(group: Group) -> GroupOut:
    return GroupOut(prompt=group.prompt, text=group.text, pictures=[_image_out(image) for image in group.images])


def _image_out(image: ImageInfo) -> ImageOut:
    return ImageOut(id=image.sha256, width=image.width, height=image.height)

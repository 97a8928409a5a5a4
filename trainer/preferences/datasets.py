"""Datasets: how do prompts, candidates and pairs get into a workspace?

Adding what is there already changes nothing. Everything that adds is to be called within `Store.writing`: one writer at
a time looks what is there and adds the rest. `bulk_insert` does the same for many pairs at once.
"""

from __future__ import annotations

import getpass
import hashlib
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ..errors import UserError
from .pairs import normalize_prompt, split_hash
from .schema import KINDS, Annotator, Candidate, Dataset, ImageRecord, Pair, Prompt

_SLICE = 500
_PAIRS_PER_IMAGE = 4
"""Of unjudged images: any two of up to nine are a pair; of more, some pairs spread over all."""
_MAX_NAME = 200
_Any = TypeVar("_Any")


def create_dataset(
    session: Session, name: str, held_out: float = 0.1, kind: str = "pairs", about: str | None = None
) -> Dataset:
    """A new dataset. held_out: share of prompts never trained on, in [0, 1). about: JSON, see `schema.Dataset`.

    Raises UserError where there is one of that name, or the name is empty or too long.
    """
    name = _valid_name(name, "a dataset")
    if not 0 <= held_out < 1:
        raise UserError(f"the share of prompts to hold out lies between 0 and 1, not at {held_out}")
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is none of {', '.join(KINDS)}")
    if session.scalar(select(Dataset.id).where(Dataset.name == name)) is not None:
        raise UserError(f"there is a dataset {name} already: choose another name")
    dataset = Dataset(name=name, kind=kind, held_out=held_out, about=about or "", created=time.time())
    return _flushed(session, dataset)


def find_dataset(session: Session, name: str) -> Dataset:
    """The dataset of that name, of either kind. Raises UserError that names those there are."""
    dataset = session.scalar(select(Dataset).where(Dataset.name == normalize_prompt(name)))
    if dataset is None:
        names = [one.name for one in list_datasets(session)]
        there = f"there are {', '.join(names)}" if names else "there is none yet"
        raise UserError(f"there is no dataset {name}; {there}")
    return dataset


def find_or_create(session: Session, name: str) -> Dataset:
    """The dataset of that name that is trained on, new where there is none. Raises UserError as `create_dataset`."""
    there = session.scalar(select(Dataset).where(Dataset.name == normalize_prompt(name), Dataset.kind == "pairs"))
    return there or create_dataset(session, name)


def list_datasets(session: Session, kind: str = "pairs") -> list[Dataset]:
    """All datasets of a kind, by name."""
    return list(session.scalars(select(Dataset).where(Dataset.kind == kind).order_by(Dataset.name)))


def annotator_named(session: Session, name: str) -> Annotator:
    """The annotator of that name, new if need be. Raises UserError where the name is empty or too long."""
    name = _valid_name(name, "an annotator")
    annotator = session.scalar(select(Annotator).where(Annotator.name == name))
    return annotator or _flushed(session, Annotator(name=name))


def default_annotator() -> str:
    """Who judges where nobody gave a name: the user of this machine."""
    try:
        return getpass.getuser()[:_MAX_NAME] or "me"
    except (KeyError, OSError, ImportError):  # a container may know no name for its user
        return "me"


def add_prompt(session: Session, dataset: Dataset, text: str) -> Prompt:
    """A prompt of the dataset, its white space made single spaces. Raises UserError where nothing is left of it."""
    text = normalize_prompt(text)
    if not text:
        raise UserError("the prompt is empty: write what the pictures show")
    digest = prompt_digest(text)
    prompt = session.scalar(select(Prompt).where(Prompt.dataset_id == dataset.id, Prompt.digest == digest))
    if prompt is not None:
        return prompt
    return _flushed(session, Prompt(dataset_id=dataset.id, digest=digest, text=text, split_hash=split_hash(text)))


def add_candidates(
    session: Session, prompt: Prompt, images: Iterable[ImageRecord], arm: str | None = None
) -> list[Candidate]:
    """Images that were made for a prompt; one `Candidate` for each given, in their order. arm: see `schema`."""
    known = {one.picture_id: one for one in session.scalars(select(Candidate).where(Candidate.prompt_id == prompt.id))}
    candidates = []
    for image in images:
        if image.id not in known:
            known[image.id] = Candidate(prompt_id=prompt.id, picture_id=image.id, arm=arm, created=time.time())
            session.add(known[image.id])
        candidates.append(known[image.id])
    session.flush()
    return candidates


def make_pairs(session: Session, prompt: Prompt, at_most: int | None = None) -> int:
    """Pair the prompt's candidates; how many pairs are new.

    at_most: how many pairs the prompt has in the end, existing ones included; spread so that each image is in about as
    many pairs. By default any two candidates are a pair.
    """
    used = (
        select(func.count())
        .where(Pair.prompt_id == prompt.id)
        .where((Pair.first_id == ImageRecord.id) | (Pair.second_id == ImageRecord.id))
        .correlate(ImageRecord)
        .scalar_subquery()
    )
    # Images that are in few pairs come first, so they get the pairs that are left.
    images = session.scalars(
        select(ImageRecord)
        .join(Candidate, Candidate.picture_id == ImageRecord.id)
        .where(Candidate.prompt_id == prompt.id)
        .order_by(used, ImageRecord.sha256)
    ).all()
    known = _known_pairs(session, prompt)
    missing = (two for two in _tournament(images) if _ids(*two) not in known)
    limit = None if at_most is None else max(0, at_most - len(known))
    new = list(itertools.islice(missing, limit))
    _add_pairs(session, prompt, new, first_round=len(known))
    return len(new)


def spread_pairs(session: Session, prompt: Prompt) -> int:
    """Pair the prompt's candidates, with a few pairs per image where there are many; how many pairs are new."""
    candidates = session.scalar(select(func.count()).where(Candidate.prompt_id == prompt.id)) or 0
    return make_pairs(session, prompt, at_most=_PAIRS_PER_IMAGE * candidates)


def add_pair(
    session: Session, dataset: Dataset, prompt: Prompt, a: ImageRecord, b: ImageRecord, source: str = ""
) -> Pair:
    """The pair of two images; they become candidates of the prompt. Raises UserError where they are the same."""
    if prompt.dataset_id != dataset.id:
        raise ValueError(f"prompt {prompt.id} is not of the dataset {dataset.name}")
    return pairs_between(session, prompt, [(a, b)], source)[0]


def pairs_between(
    session: Session, prompt: Prompt, images: Sequence[tuple[ImageRecord, ImageRecord]], source: str = ""
) -> list[Pair]:
    """The pair of each two images, new where it is not there; they become candidates of the prompt."""
    for a, b in images:
        if a.sha256 == b.sha256:
            raise UserError("the two pictures of a pair are the same: choose another")
    add_candidates(session, prompt, itertools.chain(*images))
    known = _known_pairs(session, prompt)
    new = {_ids(*two): two for two in images if _ids(*two) not in known}
    _add_pairs(session, prompt, list(new.values()), first_round=len(known), source=source)
    known = _known_pairs(session, prompt) if new else known
    return [session.get_one(Pair, known[_ids(*two)]) for two in images]


def prompt_digest(text: str) -> str:
    """`schema.Prompt.digest` of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def shuffle_of(prompt: str, first: str, second: str) -> float:
    """`schema.Pair.shuffle`, in [0, 1). prompt: its digest; first, second: SHA-256 of the images."""
    digest = hashlib.sha256("\0".join(("shuffle", prompt, first, second)).encode()).digest()
    # 53 bits, which is what a float holds: more could round up to 1.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def slices(items: Sequence[_Any]) -> Iterator[Sequence[_Any]]:
    """Parts small enough for one statement of a database."""
    for start in range(0, len(items), _SLICE):
        yield items[start : start + _SLICE]


def _tournament(images: Sequence[ImageRecord]) -> Iterator[tuple[ImageRecord, ImageRecord]]:
    """Any two, in rounds in which each is in one pair (the circle method): cut off anywhere, it is balanced."""
    ring: list[ImageRecord | None] = [*images, *([None] if len(images) % 2 else [])]
    for _ in range(len(ring) - 1):
        for one, other in zip(ring[: len(ring) // 2], reversed(ring), strict=False):
            if one is not None and other is not None:
                yield one, other
        ring.insert(1, ring.pop())


def _known_pairs(session: Session, prompt: Prompt) -> dict[tuple[int, int], int]:
    rows = session.execute(select(Pair.first_id, Pair.second_id, Pair.id).where(Pair.prompt_id == prompt.id))
    return {(first, second): pair for first, second, pair in rows}


def _add_pairs(
    session: Session, prompt: Prompt, new: Sequence[tuple[ImageRecord, ImageRecord]], first_round: int, source: str = ""
) -> None:
    for round_number, two in enumerate(new, first_round):
        first, second = sorted(two, key=lambda image: image.sha256)
        session.add(
            Pair(
                dataset_id=prompt.dataset_id,
                prompt_id=prompt.id,
                first_id=first.id,
                second_id=second.id,
                source=source,
                created=time.time(),
                round=round_number,
                shuffle=shuffle_of(prompt.digest, first.sha256, second.sha256),
            )
        )
    session.flush()


def _ids(one: ImageRecord, other: ImageRecord) -> tuple[int, int]:
    return (one.id, other.id) if one.sha256 < other.sha256 else (other.id, one.id)


def _valid_name(name: str, what: str) -> str:
    name = normalize_prompt(name)
    if not name:
        raise UserError(f"{what} needs a name")
    if len(name) > _MAX_NAME:
        raise UserError(f"the name of {what} has {_MAX_NAME} characters at most, not {len(name)}")
    return name


def _flushed(session: Session, row: _Any) -> _Any:
    session.add(row)
    session.flush()
    return row

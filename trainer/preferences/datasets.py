"""How do datasets, prompts, candidates and pairs get into a workspace?

Adding what is there already changes nothing. Everything that adds is to be called within `Store.writing`: one writer at
a time looks what is there and adds the rest. `many_pairs` does the same for many pairs at once.
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

_A_SLICE = 500
_PAIRS_A_PICTURE = 4
"""Of pictures that nobody judged: any two of up to nine are a pair, of more a spread."""
_MOST_CHARACTERS = 200
_Any = TypeVar("_Any")


def create_dataset(
    session: Session, name: str, held_out: float = 0.1, kind: str = "pairs", about: str | None = None
) -> Dataset:
    """A new dataset. held_out: share of prompts never trained on, in [0, 1). about: JSON, see `schema.Dataset`.

    Raises UserError where there is one of that name, or the name is empty or too long.
    """
    name = _named(name, "a dataset")
    if not 0 <= held_out < 1:
        raise UserError(f"the share of prompts to hold out lies between 0 and 1, not at {held_out}")
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is none of {', '.join(KINDS)}")
    if session.scalar(select(Dataset.id).where(Dataset.name == name)) is not None:
        raise UserError(f"there is a dataset {name} already: choose another name")
    dataset = Dataset(name=name, kind=kind, held_out=held_out, about=about or "", created=time.time())
    return _added(session, dataset)


def find_dataset(session: Session, name: str) -> Dataset:
    """The dataset of that name, of either kind. Raises UserError that names those there are."""
    found = session.scalar(select(Dataset).where(Dataset.name == normalize_prompt(name)))
    if found is None:
        names = [dataset.name for dataset in list_datasets(session)]
        there = f"there are {', '.join(names)}" if names else "there is none yet"
        raise UserError(f"there is no dataset {name}; {there}")
    return found


def find_or_create(session: Session, name: str) -> Dataset:
    """The dataset of that name that is trained on, new where there is none. Raises UserError as `create_dataset`."""
    there = session.scalar(select(Dataset).where(Dataset.name == normalize_prompt(name), Dataset.kind == "pairs"))
    return there or create_dataset(session, name)


def list_datasets(session: Session, kind: str = "pairs") -> list[Dataset]:
    """All datasets of a kind, by name."""
    return list(session.scalars(select(Dataset).where(Dataset.kind == kind).order_by(Dataset.name)))


def annotator_named(session: Session, name: str) -> Annotator:
    """The annotator of that name, new if need be. Raises UserError where the name is empty or too long."""
    name = _named(name, "an annotator")
    found = session.scalar(select(Annotator).where(Annotator.name == name))
    return found or _added(session, Annotator(name=name))


def default_annotator() -> str:
    """Who judges where nobody gave a name: the user of this machine."""
    try:
        return getpass.getuser()[:_MOST_CHARACTERS] or "me"
    except (KeyError, OSError, ImportError):  # a container may know no name for its user
        return "me"


def add_prompt(session: Session, dataset: Dataset, text: str) -> Prompt:
    """A prompt of the dataset, its white space made single spaces. Raises UserError where nothing is left of it."""
    text = normalize_prompt(text)
    if not text:
        raise UserError("the prompt is empty: write what the pictures show")
    digest = prompt_digest(text)
    found = session.scalar(select(Prompt).where(Prompt.dataset_id == dataset.id, Prompt.digest == digest))
    return found or _added(
        session, Prompt(dataset_id=dataset.id, digest=digest, text=text, split_hash=split_hash(text))
    )


def add_candidates(
    session: Session, prompt: Prompt, pictures: Iterable[ImageRecord], arm: str | None = None
) -> list[Candidate]:
    """Pictures that were made for a prompt; one `Candidate` for each given, in their order. arm: see `schema`."""
    known = {one.picture_id: one for one in session.scalars(select(Candidate).where(Candidate.prompt_id == prompt.id))}
    candidates = []
    for picture in pictures:
        if picture.id not in known:
            known[picture.id] = Candidate(prompt_id=prompt.id, picture_id=picture.id, arm=arm, created=time.time())
            session.add(known[picture.id])
        candidates.append(known[picture.id])
    session.flush()
    return candidates


def make_pairs(session: Session, prompt: Prompt, at_most: int | None = None) -> int:
    """Pair the prompt's candidates; how many pairs are new.

    at_most: how many pairs the prompt has in the end, those counted that are there; spread so that its pictures are in
    about as many pairs each. By default any two candidates are a pair.
    """
    used = (
        select(func.count())
        .where(Pair.prompt_id == prompt.id)
        .where((Pair.first_id == ImageRecord.id) | (Pair.second_id == ImageRecord.id))
        .correlate(ImageRecord)
        .scalar_subquery()
    )
    # Pictures that are in few pairs come first, so they get the pairs that are left.
    pictures = session.scalars(
        select(ImageRecord)
        .join(Candidate, Candidate.picture_id == ImageRecord.id)
        .where(Candidate.prompt_id == prompt.id)
        .order_by(used, ImageRecord.sha256)
    ).all()
    known = _known_pairs(session, prompt)
    missing = (two for two in _tournament(pictures) if _ids(*two) not in known)
    wanted = None if at_most is None else max(0, at_most - len(known))
    new = list(itertools.islice(missing, wanted))
    _add_pairs(session, prompt, new, first_round=len(known))
    return len(new)


def spread_pairs(session: Session, prompt: Prompt) -> int:
    """Pair the prompt's candidates as far as their judging is worth it; how many pairs are new."""
    candidates = session.scalar(select(func.count()).where(Candidate.prompt_id == prompt.id)) or 0
    return make_pairs(session, prompt, at_most=_PAIRS_A_PICTURE * candidates)


def add_pair(
    session: Session, dataset: Dataset, prompt: Prompt, a: ImageRecord, b: ImageRecord, source: str = ""
) -> Pair:
    """The pair of two pictures; they become candidates of the prompt. Raises UserError where they are the same."""
    if prompt.dataset_id != dataset.id:
        raise ValueError(f"prompt {prompt.id} is not of the dataset {dataset.name}")
    return pairs_between(session, prompt, [(a, b)], source)[0]


def pairs_between(
    session: Session, prompt: Prompt, pictures: Sequence[tuple[ImageRecord, ImageRecord]], source: str = ""
) -> list[Pair]:
    """The pair of each two pictures, new where it is not there; they become candidates of the prompt."""
    for a, b in pictures:
        if a.sha256 == b.sha256:
            raise UserError("the two pictures of a pair are the same: choose another")
    add_candidates(session, prompt, itertools.chain(*pictures))
    known = _known_pairs(session, prompt)
    new = {_ids(*two): two for two in pictures if _ids(*two) not in known}
    _add_pairs(session, prompt, list(new.values()), first_round=len(known), source=source)
    known = _known_pairs(session, prompt) if new else known
    return [session.get_one(Pair, known[_ids(*two)]) for two in pictures]


def prompt_digest(text: str) -> str:
    """`schema.Prompt.digest` of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def shuffle_of(prompt: str, first: str, second: str) -> float:
    """`schema.Pair.shuffle`, in [0, 1). prompt: its digest; first, second: SHA-256 of the pictures."""
    digest = hashlib.sha256("\0".join(("shuffle", prompt, first, second)).encode()).digest()
    # 53 bits, which is what a float holds: more could round up to 1.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def slices(items: Sequence[_Any]) -> Iterator[Sequence[_Any]]:
    """Parts that a database takes in one statement."""
    for start in range(0, len(items), _A_SLICE):
        yield items[start : start + _A_SLICE]


def _tournament(pictures: Sequence[ImageRecord]) -> Iterator[tuple[ImageRecord, ImageRecord]]:
    """Any two, in rounds in which each is in one pair (the circle method): wherever it is cut off, it is spread."""
    ring: list[ImageRecord | None] = [*pictures, *([None] if len(pictures) % 2 else [])]
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
        first, second = sorted(two, key=lambda picture: picture.sha256)
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


def _named(name: str, what: str) -> str:
    name = normalize_prompt(name)
    if not name:
        raise UserError(f"{what} needs a name")
    if len(name) > _MOST_CHARACTERS:
        raise UserError(f"the name of {what} has {_MOST_CHARACTERS} characters at most, not {len(name)}")
    return name


def _added(session: Session, row: _Any) -> _Any:
    session.add(row)
    session.flush()
    return row

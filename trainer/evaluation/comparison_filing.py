"""How do pictures that are painted get into a comparison, each on its side?

All is to be called within `Store.writing`, and what is there already is not added again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sqlalchemy import select

from ..errors import UserError
from ..preferences.datasets import add_candidates, add_pair, add_prompt, create_dataset
from ..preferences.pairs import normalize_prompt
from ..preferences.schema import Dataset
from .comparison import About, about

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ..preferences.schema import ImageRecord, Pair

Side = Literal["base", "lora"]
"""What the candidates of a comparison have for their `arm`; "base" also where that is another LoRA."""


def names(lora: str, against: str = "") -> Iterator[str]:
    """What a comparison may be called, best first. lora, against: files; against is empty for the base alone."""
    wanted = normalize_prompt(f"{Path(lora).stem} or {Path(against).stem if against else 'the base'}")[:190]
    yield wanted
    number = 1
    while True:
        number += 1
        yield f"{wanted} {number}"


def named(session: Session, name: str) -> Dataset | None:
    """The dataset or comparison of that name."""
    return session.scalar(select(Dataset).where(Dataset.name == normalize_prompt(name)))


def open_comparison(session: Session, name: str, told: About, is_it: Callable[[About], bool]) -> Dataset:
    """The comparison of that name, new where there is none. Raises UserError where what is there is another one.

    told: what a new one is of. is_it: whether one of this name that is about something goes on here.
    """
    there = named(session, name)
    if there is None:
        return create_dataset(session, name, held_out=0.0, kind="comparison", about=told.written())
    if there.kind != "comparison" or not is_it(about(there)):
        raise UserError(f"there is a dataset or comparison named {there.name}: start again under another name")
    return there


def go_on(session: Session, name: str, told: About) -> Dataset:
    """The comparison in which these two sides, as `told`, have met, or meet first. name: empty for one made for them.

    Raises UserError where `name` is another's: of another LoRA, another strength or schedule of it, or no comparison.
    """

    def is_same(there: About) -> bool:
        return _sides(there) == _sides(told)

    if normalize_prompt(name):
        there = named(session, name)
        if there is not None and there.kind == "comparison" and not is_same(about(there)):
            raise UserError(
                f"{there.name} compares {_said(about(there))}, not {_said(told)}: give this one another name, or none"
            )
        return open_comparison(session, name, told, is_same)
    for free in names(told.lora, told.against):
        there = named(session, free)
        if there is None or (there.kind == "comparison" and is_same(about(there))):
            return open_comparison(session, free, told, is_same)
    raise AssertionError("names never ends")


def add_side(session: Session, comparison: Dataset, prompt: str, picture: ImageRecord, side: Side) -> None:
    """Add a picture that was painted for a prompt."""
    add_candidates(session, add_prompt(session, comparison, prompt), [picture], side)


def add_duel(session: Session, comparison: Dataset, prompt: str, other: ImageRecord, lora: ImageRecord) -> Pair:
    """Pair two pictures of the same prompt and seed, both added before."""
    return add_pair(session, comparison, add_prompt(session, comparison, prompt), other, lora)


def _sides(one: About) -> tuple[str, str, str, float, str]:
    """What two comparisons have in common that are of the same. A file is known by its content, not by its name."""
    return (one.base, one.lora_sha256 or one.lora, one.against_sha256 or one.against, one.strength, one.schedule)


def _said(one: About) -> str:
    return f"{Path(one.lora).stem} at {one.strength:g}{one.schedule and f', {one.schedule},'} with {one.other}"

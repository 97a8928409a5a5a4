"""What does the reader of a layout yield, for training on a source directly and for importing it alike?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from ...images.image_ref import ImageRef


class UnreadImage(Protocol):
    """Where a picture lies. Nothing has been read of it yet, or only its bytes."""

    @property
    def label(self) -> str:
        """How to name this picture to a person."""

    def read(self) -> bytes:
        """The picture file's bytes. Raises UserError naming it where they cannot be read."""

    def ref(self) -> ImageRef:
        """Read, hash and measure it. Raises UserError naming it where it is missing or no sound picture."""


@dataclass(frozen=True)
class SourceImage:
    """A picture, and what the source itself (not the picture's own text) says of the model that painted it."""

    at: UnreadImage
    model: str | None = None


@dataclass(frozen=True)
class SourceRow:
    """Two pictures of one prompt, judged or not.

    share_0: in [0, 1], how far the judgement is for picture_0; None: not judged. votes: of how many people it is.
    weight: multiplies the pair's loss. annotator: who judged, where the source knows; where: names the row to a person.
    rejected_prompt, ranking, assumed: see `pairs.Pair`.
    """

    prompt: str
    picture_0: SourceImage
    picture_1: SourceImage
    share_0: float | None
    where: str
    votes: float = 1.0
    weight: float = 1.0
    annotator: str | None = None
    rejected_prompt: str | None = None
    ranking: str | None = None
    assumed: bool = False


@dataclass(frozen=True)
class SourceGroup:
    """All pictures of one prompt, of which nobody said yet which is better. Only of layouts without judgements."""

    prompt: str
    pictures: tuple[SourceImage, ...]
    where: str


@dataclass(frozen=True)
class Unusable:
    """A row that gives no pair. broken: somebody should mend it; otherwise it is sound, but says nothing."""

    reason: str
    where: str
    broken: bool = True


class Reader(Protocol):
    """One layout's rows at one place."""

    layout: str
    """Its name for the command line, a key of `opening.LAYOUTS`."""

    @property
    def source(self) -> str:
        """How to name the place to a person."""

    def count(self) -> int | None:
        """About how many rows `rows` gives, where that can be told without reading them."""

    def rows(self) -> Iterator[SourceRow | SourceGroup | Unusable]:
        """Every row in the source's order, a few at a time in memory. Raises UserError if the source as a whole cannot
        be read."""

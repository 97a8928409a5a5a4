"""Source records: the rows that every layout's reader yields, for training on files and for importing them alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from ...images.image_ref import ImageRef


class UnreadImage(Protocol):
    """Where an image lies. Nothing has been read of it yet, or only its bytes."""

    @property
    def label(self) -> str:
        """How to name this image to a person."""

    def read(self) -> bytes:
        """The image file's bytes. Raises UserError naming it where they cannot be read."""

    def ref(self) -> ImageRef:
        """Read, hash and measure it. Raises UserError naming it where it is missing or no sound image."""


@dataclass(frozen=True)
class SourceImage:
    """An image, and the model that generated it according to the source (not to the image's own infotext)."""

    at: UnreadImage
    model: str | None = None


@dataclass(frozen=True)
class SourceRow:
    """Two images of one prompt, judged or not.

    share_0: in [0, 1], how far the judgement is for image_0; None: not judged. votes: of how many people it is.
    weight: multiplies the pair's loss. annotator: who judged, where the source knows; where: names the row to a person.
    rejected_prompt, ranking, assumed: see `pairs.Pair`.
    """

    prompt: str
    image_0: SourceImage
    image_1: SourceImage
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
    """All images of one prompt, not judged yet. Only of layouts without judgements."""

    prompt: str
    images: tuple[SourceImage, ...]
    where: str


@dataclass(frozen=True)
class Unusable:
    """A row that gives no pair. broken: somebody should mend it; otherwise it is sound, but holds no preference."""

    reason: str
    where: str
    broken: bool = True


class Reader(Protocol):
    """One layout's rows at one place."""

    layout: str
    """Its name for the command line, a key of `detect_layout.LAYOUTS`."""

    @property
    def source(self) -> str:
        """How to name the place to a person."""

    def count(self) -> int | None:
        """About how many rows `rows` gives, where that is known without reading them."""

    def rows(self) -> Iterator[SourceRow | SourceGroup | Unusable]:
        """Every row in the source's order, a few at a time in memory. Raises UserError if the source as a whole cannot
        be read."""

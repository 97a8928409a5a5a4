"""Layout writers: the pairs they are given, and the capabilities of a layout."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..preference import Preference


@dataclass(frozen=True)
class ExportedImage:
    """An image of the workspace. ending: with its dot. read: its bytes; raises UserError where they are gone."""

    sha256: str
    ending: str
    model: str | None
    read: Callable[[], bytes]

    @property
    def name(self) -> str:
        """A file name for it, short and the same wherever it is exported."""
        return self.sha256[:16] + self.ending


@dataclass(frozen=True)
class ExportedPair:
    """A pair and the sums of its judgements. preference: None for a tie (then there are votes) or without votes.

    rejected_prompt, ranking, assumed: see `pairs.Pair`.
    """

    prompt: str
    first: ExportedImage
    second: ExportedImage
    votes: float
    votes_first: float
    preference: Preference | None
    rejected_prompt: str | None = None
    ranking: str | None = None
    assumed: bool = False

    @property
    def name(self) -> str:
        """For the files of the pair: short, and the same in every export."""
        text = "\0".join((self.prompt, self.first.sha256, self.second.sha256))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def chosen_first(self) -> tuple[ExportedImage, ExportedImage]:
        """Chosen and rejected image. Only where there is a preference."""
        if self.preference is not None and not self.preference.for_first:
            return self.second, self.first
        return self.first, self.second


@dataclass(frozen=True)
class Capabilities:
    """What a layout can store of a pair besides its images and prompt. whole_weights: weights, but no fractions.
    captions: a rejected image's own. rankings: which pairs were ranked together, and their weights by that."""

    ties: bool = False
    unjudged: bool = False
    shares: bool = False
    votes: bool = False
    whole_weights: bool = False
    captions: bool = False
    assumed: bool = False
    rankings: bool = False


class Writer(Protocol):
    """Writes pairs into a folder that is there and empty."""

    capabilities: Capabilities

    def write(self, pair: ExportedPair) -> None:
        """Add a pair; one without a preference only where `capabilities` says so."""

    def finish(self) -> None:
        """Write what is still buffered, and close every file."""


def write_file(folder: Path, name: str, data: bytes) -> str:
    """Write a file below `folder`, making folders on the way. Returns its name."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return name

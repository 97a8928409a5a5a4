"""Preference pairs: chosen and rejected image of a prompt, sources that give them, and the split by prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..images.image_ref import ImageRef


@dataclass(frozen=True)
class Pair:
    """Two images of one prompt, and which of them is chosen.

    preference: share of the judgements that were for `chosen`, in [0.5, 1]; weight: multiplies the pair's loss.
    rejected_prompt: the rejected image's own caption, if it has one; None: `prompt` is that of both.
    ranking: names the ranking that the pair came from; pairs of one ranking have images in common. assumed: nobody
    compared the two; the rejected one was generated to be rejected.
    """

    prompt: str
    chosen: ImageRef
    rejected: ImageRef
    preference: float = 1.0
    weight: float = 1.0
    rejected_prompt: str | None = None
    ranking: str | None = None
    assumed: bool = False

    @property
    def id(self) -> str:
        """The same two images under the same captions are the same pair, wherever they lie. 16 hexadecimal digits."""
        own = () if self.rejected_prompt is None else (self.rejected_prompt,)
        text = "\0".join((self.prompt, self.chosen.sha256, self.rejected.sha256, *own))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class LeftOut:
    """Rows of a source that are not trained on, and why."""

    reason: str
    count: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class PairSet:
    """All trainable pairs of one source, in the source's order, and what was left out of it."""

    pairs: tuple[Pair, ...]
    left_out: tuple[LeftOut, ...] = ()
    source: str = ""

    @property
    def fingerprint(self) -> str:
        """Hash of the pairs, their preferences and weights; independent of their order and place. 16 hex digits."""
        rows = sorted(f"{pair.id} {pair.preference!r} {pair.weight!r}" for pair in self.pairs)
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


class PairSource(Protocol):
    """A source of judged pairs: files in a known layout, or a dataset of the workspace."""

    def load(self) -> PairSet:
        """Read every pair. Raises UserError naming the file, the row and the remedy where it cannot be trained on."""


@dataclass(frozen=True)
class Split:
    """Pairs to train on and pairs kept aside, divided by prompt so that no prompt is on both sides."""

    train: tuple[Pair, ...]
    held_out: tuple[Pair, ...] = field(default=())


def split_by_prompt(pairs: Sequence[Pair], held_out_share: float) -> Split:
    """Divide `pairs` by a hash of each prompt: a prompt stays on its side when the dataset grows.

    held_out_share: in [0, 1), the expected share of prompts kept aside.
    """
    train: list[Pair] = []
    held_out: list[Pair] = []
    for pair in pairs:
        (held_out if split_hash(pair.prompt) < held_out_share else train).append(pair)
    return Split(tuple(train), tuple(held_out))


def sample_pairs(pairs: Sequence[Pair], count: int) -> tuple[Pair, ...]:
    """`count` of `pairs`, in their order, by a hash of each: a smaller sample is part of every larger one."""
    chosen = {pair.id for pair in sorted(pairs, key=lambda pair: hashlib.sha256(pair.id.encode()).digest())[:count]}
    return tuple(pair for pair in pairs if pair.id in chosen)


def split_hash(prompt: str) -> float:
    """A hash of the prompt in [0, 1): held out where it is below the share to hold out."""
    digest = hashlib.sha256(b"held-out\0" + prompt.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def normalize_prompt(text: str) -> str:
    """A prompt as it is stored and compared: runs of white space are one space, and nothing that a database or UTF-8
    refuses (NUL, halves of surrogate pairs) is in it."""
    return " ".join(storable_text(text).split())


def storable_text(text: str) -> str:
    """`text` without NUL, which PostgreSQL refuses, and with lone surrogates, which UTF-8 refuses, as ``?``."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def left_out(reasons: Iterable[tuple[str, str]], most_examples: int = 5) -> tuple[LeftOut, ...]:
    """Count (reason, where) by reason, keeping a few places as examples."""
    places: dict[str, list[str]] = {}
    for reason, where in reasons:
        places.setdefault(reason, []).append(where)
    return tuple(LeftOut(reason, len(at), tuple(at[:most_examples])) for reason, at in places.items())

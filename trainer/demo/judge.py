"""Judge of the demo: pairs of one taste, "outlined", as a judged dataset on disk, and how far images follow it.

What is measured is also how much of a caption an image still shows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .shapes_world import captions, draw, dress, read, scene_of

HELD_OUT = 40
"""Captions of the world's 120 that no pair has, so that the taste is measured on prompts it was not taught on."""

TIE_EVERY = 25
"""One more tied pair for so many decided ones: a judge who cannot choose, which training leaves out."""


def write_pairs(folder: Path, count: int, seed: int) -> Path:
    """Draw `count` decided pairs and a few ties into `folder`; returns the path of metadata.jsonl.

    Both pictures of a pair have the same caption. The chosen one is outlined and the rejected one is not; size, tint
    and jitter are drawn for each alone, and so is the side of the chosen one. The layout is invoke-training's
    image-pair-preference: one JSON object a line with image_0, image_1, prompt, prefer_0 and prefer_1. In a tie the two
    pictures are alike, outlined or not, and both are preferred or neither is.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    taught = _divided_captions(seed)[HELD_OUT:]
    lines = []
    for row in range(count + count // TIE_EVERY):
        caption = taught[int(rng.integers(len(taught)))]
        if row < count:
            first = bool(rng.integers(2))
            outlined = preferred = (first, not first)
        else:
            alike = bool(rng.integers(2))
            outlined = preferred = (alike, alike)
        names = [f"{row:04d}_{side}.png" for side in (0, 1)]
        for name, outline in zip(names, outlined, strict=True):
            draw(dress(caption, rng, outline=outline)).save(folder / name)
        line = {
            "image_0": names[0],
            "image_1": names[1],
            "prompt": caption,
            "prefer_0": preferred[0],
            "prefer_1": preferred[1],
        }
        lines.append(json.dumps(line) + "\n")
    # Ties lie among the decided pairs, as they do when a person judges.
    rng.shuffle(lines)
    metadata = folder / "metadata.jsonl"
    metadata.write_text("".join(lines), encoding="utf-8")
    return metadata


def test_captions(seed: int) -> tuple[str, ...]:
    """The captions that no pair of `write_pairs(..., seed)` has, in random order."""
    return _divided_captions(seed)[:HELD_OUT]


# pytest collects what is called test_* when a test module imports it.
test_captions.__test__ = False  # type: ignore[attr-defined]


def _divided_captions(seed: int) -> tuple[str, ...]:
    order = np.random.default_rng([seed, 1]).permutation(len(captions()))
    return tuple(captions()[i] for i in order)


@dataclass(frozen=True)
class Measurement:
    """Shares in [0, 1] of `count` pictures; what cannot be read counts as wrong.

    outlined: the shape has an outline; right: colour, shape and position are all what the caption says.
    """

    count: int
    outlined: float
    right: float


def measure(pictures: Sequence[Image.Image], captions: Sequence[str]) -> Measurement:
    """Read every picture and compare it with its caption.

    Raises ValueError where there are no pictures or not a caption for each, KeyError for a caption of another world.
    """
    if not pictures or len(pictures) != len(captions):
        raise ValueError(f"{len(pictures)} pictures and {len(captions)} captions: one caption a picture, at least one")
    readings = [read(picture) for picture in pictures]
    right = [r.agrees_with_caption_of(scene_of(caption)) for r, caption in zip(readings, captions, strict=True)]
    outlined = [reading.outline is True for reading in readings]
    return Measurement(len(pictures), sum(outlined) / len(pictures), sum(right) / len(pictures))

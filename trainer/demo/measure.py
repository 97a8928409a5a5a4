"""How much of a set of pictures follows the taste, and how much of it still shows what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from .shapes_world import read, scene_of


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

    Raises ValueError where there are no pictures or not one caption a picture, KeyError for a caption of another world.
    """
    if not pictures or len(pictures) != len(captions):
        raise ValueError(f"{len(pictures)} pictures and {len(captions)} captions: one caption a picture, at least one")
    readings = [read(picture) for picture in pictures]
    right = [r.agrees_with_caption_of(scene_of(caption)) for r, caption in zip(readings, captions, strict=True)]
    outlined = [reading.outline is True for reading in readings]
    return Measurement(len(pictures), sum(outlined) / len(pictures), sum(right) / len(pictures))

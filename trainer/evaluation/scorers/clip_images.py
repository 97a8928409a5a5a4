"""How does CLIP see a picture? Resized, cut to a square and scaled as transformers' CLIPImageProcessor does it.

That class needs torchvision in newer versions of transformers; these are its steps in Pillow and numpy, and a test
compares the numbers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class PictureInput:
    """shortest: what the shorter side becomes; side: of the square that is cut from the middle; both in pixels."""

    shortest: int
    side: int
    mean: tuple[float, ...] = _MEAN
    deviation: tuple[float, ...] = _DEVIATION
    resample: int = int(Image.Resampling.BICUBIC)

    def batch(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """(pictures, 3, side, side) float32."""
        return np.stack([self._one(picture) for picture in pictures])

    def _one(self, picture: Image.Image) -> np.ndarray:
        picture = picture.convert("RGB")
        short, long = sorted(picture.size)
        longer = int(self.shortest * long / short)
        size = (self.shortest, longer) if picture.width <= picture.height else (longer, self.shortest)
        pixels = np.asarray(picture.resize(size, Image.Resampling(self.resample)), dtype=np.float32)
        top, left = (size[1] - self.side) // 2, (size[0] - self.side) // 2
        pixels = pixels[top : top + self.side, left : left + self.side] / np.float32(255)
        scaled = (pixels - np.array(self.mean, np.float32)) / np.array(self.deviation, np.float32)
        return scaled.transpose(2, 0, 1)


def picture_input(folder: Path | None, side: int) -> PictureInput:
    """As the preprocessor_config.json in `folder` says; as every published CLIP of `side` pixels has it otherwise."""
    file = folder / "preprocessor_config.json" if folder else None
    if file is None or not file.is_file():
        return PictureInput(side, side)
    told = json.loads(file.read_text(encoding="utf-8"))
    size, cut = told.get("size", side), told.get("crop_size", side)
    return PictureInput(
        size if isinstance(size, int) else size["shortest_edge"],
        cut if isinstance(cut, int) else cut["height"],
        tuple(told.get("image_mean", _MEAN)),
        tuple(told.get("image_std", _DEVIATION)),
        told.get("resample", int(Image.Resampling.BICUBIC)),
    )

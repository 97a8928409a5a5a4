"""Resize and centre crop to a training size, and the micro-conditioning of SDXL that follows from it.

PIL's ImageOps.fit cuts the same way but does not say where: SDXL is conditioned on the original size and on the crop's
corner, so both must be known, in whole pixels and before an image is decoded.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

CROP_VERSION = 1
"""Part of every latent's cache key: raise it when `open_image` or `CoverCrop` give other pixels than before."""


@dataclass(frozen=True)
class SizeConditioning:
    """How an image was scaled and cropped, in pixels: SDXL's micro-conditioning; other families ignore it."""

    original_height: int
    original_width: int
    crop_top: int
    crop_left: int
    target_height: int
    target_width: int

    def as_list(self) -> list[int]:
        """SDXL's order of time ids: original size, crop corner, target size; height before width."""
        return [
            self.original_height,
            self.original_width,
            self.crop_top,
            self.crop_left,
            self.target_height,
            self.target_width,
        ]


@dataclass(frozen=True)
class CoverCrop:
    """How an image is brought to a size: scaled until it covers it, then cropped around its centre; never squashed.

    original, scaled, target: (width, height) in pixels; corner: left and top edge of the target in the scaled image.
    """

    original: tuple[int, int]
    scaled: tuple[int, int]
    corner: tuple[int, int]
    target: tuple[int, int]

    @classmethod
    def fit(cls, size: tuple[int, int], target: tuple[int, int]) -> CoverCrop:
        """For an image of that size, cutting off as little as possible. Integers only: no drift."""
        width, height = size
        to_width, to_height = target
        if to_width * height >= to_height * width:
            scaled = (to_width, max(to_height, _rounded_ratio(height * to_width, width)))
        else:
            scaled = (max(to_width, _rounded_ratio(width * to_height, height)), to_height)
        return cls(size, scaled, ((scaled[0] - to_width) // 2, (scaled[1] - to_height) // 2), target)

    def apply(self, image: Image.Image, flip: bool = False) -> Image.Image:
        """The image scaled and cropped, mirrored afterwards if `flip`. image: RGB of size `original`."""
        x_scale = self.original[0] / self.scaled[0]
        y_scale = self.original[1] / self.scaled[1]
        left, top = self.corner
        # The crop is cut from the original while resampling: a very long image scaled whole would fill the memory.
        box = (
            left * x_scale,
            top * y_scale,
            min((left + self.target[0]) * x_scale, self.original[0]),
            min((top + self.target[1]) * y_scale, self.original[1]),
        )
        cropped = image.resize(self.target, Image.Resampling.LANCZOS, box=box)
        return cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else cropped

    @property
    def upscaled(self) -> bool:
        """The image is smaller than its target, so it will look soft."""
        return self.scaled[0] > self.original[0] or self.scaled[1] > self.original[1]

    @property
    def size_conditioning(self) -> SizeConditioning:
        return SizeConditioning(
            original_height=self.original[1],
            original_width=self.original[0],
            crop_top=self.corner[1],
            crop_left=self.corner[0],
            target_height=self.target[1],
            target_width=self.target[0],
        )


def _rounded_ratio(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)

"""How does any picture file become an upright RGB picture of the wanted size?

| the file is                    | the answer                                                              |
|--------------------------------|-------------------------------------------------------------------------|
| turned by EXIF                 | turned upright                                                          |
| transparent                    | laid on white: what viewers show behind it, so what was judged          |
| 16 bits a channel              | scaled to 8, 65535 becoming 255 (clipping would make it nearly white)   |
| grey, palette, 1-bit           | RGB                                                                     |
| with a colour profile          | converted to sRGB                                                       |
| CMYK                           | by its profile; without one by Pillow's plain formula                   |
| animated                       | its first frame                                                         |
| 32-bit integer or float        | refused: nobody can tell which value is white                           |
| over 64 megapixels             | refused from its header, before a pixel is decoded                      |
| empty, cut short, no picture   | refused, by name                                                        |
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

from ..errors import UserError
from ..models.base_model import Framing
from ..preferences.pairs import PictureRef

MOST_PIXELS = 64_000_000

FIT_VERSION = 1
"""Part of every latent's cache key: raise it when `open_picture`, `fit` or `apply` give other pixels than before."""

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
# Pillow reads many more, some through other programs (EPS starts Ghostscript): a data set from elsewhere is not
# given that reach.

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")


@dataclass(frozen=True)
class Fit:
    """How a picture is brought to a size: scaled until it covers it, then cropped around its centre; never squashed.

    original, scaled, target: (width, height) in pixels; crop: left and top edge of the target in the scaled picture.
    """

    original: tuple[int, int]
    scaled: tuple[int, int]
    crop: tuple[int, int]
    target: tuple[int, int]

    @property
    def upscaled(self) -> bool:
        """The picture is smaller than its target, so it will look soft."""
        return self.scaled[0] > self.original[0] or self.scaled[1] > self.original[1]

    @property
    def framing(self) -> Framing:
        return Framing(
            original_height=self.original[1],
            original_width=self.original[0],
            crop_top=self.crop[1],
            crop_left=self.crop[0],
            target_height=self.target[1],
            target_width=self.target[0],
        )


def fit(size: tuple[int, int], target: tuple[int, int]) -> Fit:
    """How a picture of that size covers the target with as little cut off as possible. Integers only: no drift."""
    width, height = size
    to_width, to_height = target
    if to_width * height >= to_height * width:
        scaled = (to_width, max(to_height, _rounded(height * to_width, width)))
    else:
        scaled = (max(to_width, _rounded(width * to_height, height)), to_height)
    return Fit(size, scaled, ((scaled[0] - to_width) // 2, (scaled[1] - to_height) // 2), target)


def apply(image: Image.Image, how: Fit, flip: bool = False) -> Image.Image:
    """The picture as `how` says, mirrored afterwards if `flip`. image: RGB of size how.original."""
    across = how.original[0] / how.scaled[0]
    down = how.original[1] / how.scaled[1]
    left, top = how.crop
    # The crop is cut from the original while resampling: a very long picture scaled whole would fill the memory.
    box = (
        left * across,
        top * down,
        min((left + how.target[0]) * across, how.original[0]),
        min((top + how.target[1]) * down, how.original[1]),
    )
    fitted = image.resize(how.target, Image.Resampling.LANCZOS, box=box)
    return fitted.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else fitted


def open_picture(ref: PictureRef) -> Image.Image:
    """The picture upright, in sRGB, as an RGB image. Raises UserError naming it where that cannot be."""
    return decode(ref.read(), ref.label)


def decode(data: bytes, label: str) -> Image.Image:
    """As `open_picture`, from bytes; label: how to name the picture in an error."""
    image = _header(data, label)
    turn = _UPRIGHT.get(_orientation(image))
    profile = image.info.get("icc_profile")
    try:
        image.load()
        image = _in_srgb(image, profile)
    except MemoryError:
        raise
    except Exception as error:  # a decoder may raise anything on foreign bytes
        raise UserError(f"{label} is damaged or cut short ({error}); replace it or leave its pair out") from error
    return image.transpose(turn) if turn is not None else image


def measure(data: bytes, label: str) -> tuple[int, int]:
    """Width and height as the picture is shown, from its header; and that nothing of it is missing.

    Only as much is decoded as it takes to see that: a JPEG at an eighth of its size, of a PNG the checksums.
    Raises UserError as `open_picture` does (a PNG's pixels are looked at by `open_picture` only).
    """
    image = _header(data, label)
    width, height = image.size
    turned = _orientation(image) in (5, 6, 7, 8)
    try:
        if image.format == "PNG":
            image.verify()
        else:
            image.draft("RGB", (1, 1))
            image.load()
    except MemoryError:
        raise
    except Exception as error:
        raise UserError(f"{label} is damaged or cut short ({error}); replace it or leave its pair out") from error
    return (height, width) if turned else (width, height)


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


# Sizes are judged right after opening, with a sentence that names the picture; Pillow's warning names nothing.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def _header(data: bytes, label: str) -> Image.Image:
    if not data:
        raise UserError(f"{label} is empty (0 bytes); replace it or leave its pair out")
    try:
        Image.init()
        image = Image.open(io.BytesIO(data), formats=[name for name in _FORMATS if name in Image.OPEN])
    except Image.DecompressionBombError as error:
        raise UserError(f"{label} is too large ({error}); the most is {MOST_PIXELS // 10**6} megapixels") from None
    except MemoryError:
        raise
    except Exception:
        known = ", ".join(_FORMATS)
        raise UserError(f"{label} is not a picture that can be read (known: {known})") from None
    width, height = image.size
    if width * height > MOST_PIXELS:
        size = f"{width} x {height} px, {width * height / 10**6:.0f} megapixels"
        raise UserError(f"{label} is too large ({size}); the most is {MOST_PIXELS // 10**6} megapixels: scale it down")
    if width < 1 or height < 1:
        raise UserError(f"{label} has no pixels; replace it or leave its pair out")
    if image.mode in ("I", "F"):
        raise UserError(f"{label} stores 32-bit values, for which white is undefined; save it with 8 or 16 bits")
    return image


def _orientation(image: Image.Image) -> int:
    """1 to 8. Read before the pixels are: `measure` never reads them, and both must agree on the size."""
    if image.format == "TIFF":
        return 1  # Pillow turns these itself while loading and reports the turned size
    try:
        # For a PNG, getexif() decodes the whole picture to look for what may follow the pixels.
        if image.format == "PNG" and "exif" not in image.info:
            return 1
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged EXIF turns nothing; the pixels are still good
        return 1


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        grey = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    alpha = None
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    elif image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    image = _without_profile(image, profile).convert("RGB")
    if alpha is None:
        return image
    return Image.composite(image, Image.new("RGB", image.size, "white"), alpha)


def _without_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The colours the profile means, in sRGB; the picture as it is where the profile is sRGB, damaged or of
    another colour model than the pixels (every viewer ignores such a profile too)."""
    if not profile:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return image
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image
    return converted if converted is not None else image

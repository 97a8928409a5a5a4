"""Image decoding: how does any image file become an upright RGB image in sRGB?

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
| empty, cut short, no image     | refused, by name                                                        |

PIL's ImageOps.exif_transpose is not used: the orientation must be known from the header alone, so that `image_size`,
which does not decode a PNG, agrees with `open_image`; and damaged EXIF must turn nothing instead of raising.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageCms

from ..errors import UserError
from .image_ref import ImageRef

MAX_PIXELS = 64_000_000

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


def open_image(ref: ImageRef) -> Image.Image:
    """The image upright, in sRGB, as RGB. Raises UserError naming it where it cannot be decoded."""
    return decode_image(ref.read(), ref.label)


def decode_image(data: bytes, label: str) -> Image.Image:
    """As `open_image`, from bytes; label: how to name the image in an error."""
    image = _header(data, label)
    transpose = _UPRIGHT.get(_orientation(image))
    profile = image.info.get("icc_profile")
    try:
        image.load()
        image = _to_srgb(image, profile)
    except MemoryError:
        raise
    except Exception as error:  # a decoder may raise anything on foreign bytes
        raise UserError(f"{label} is damaged or cut short ({error}); replace it or leave its pair out") from error
    return image.transpose(transpose) if transpose is not None else image


def image_size(data: bytes, label: str) -> tuple[int, int]:
    """Width and height in pixels as the image is shown, from its header; checks that nothing of it is missing.

    Only as much is decoded as it takes to see that: a JPEG at an eighth of its size, of a PNG the checksums.
    Raises UserError as `open_image` does (a PNG's pixels are looked at by `open_image` only).
    """
    image = _header(data, label)
    width, height = image.size
    is_rotated = _orientation(image) in (5, 6, 7, 8)
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
    return (height, width) if is_rotated else (width, height)


# Sizes are checked right after opening, by an error that names the image; Pillow's warning names nothing.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def _header(data: bytes, label: str) -> Image.Image:
    if not data:
        raise UserError(f"{label} is empty (0 bytes); replace it or leave its pair out")
    try:
        Image.init()
        image = Image.open(io.BytesIO(data), formats=[name for name in _FORMATS if name in Image.OPEN])
    except Image.DecompressionBombError as error:
        raise UserError(f"{label} is too large ({error}); the most is {MAX_PIXELS // 10**6} megapixels") from None
    except MemoryError:
        raise
    except Exception:
        known = ", ".join(_FORMATS)
        raise UserError(f"{label} is not a picture that can be read (known: {known})") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        size = f"{width} x {height} px, {width * height / 10**6:.0f} megapixels"
        raise UserError(f"{label} is too large ({size}); the most is {MAX_PIXELS // 10**6} megapixels: scale it down")
    if width < 1 or height < 1:
        raise UserError(f"{label} has no pixels; replace it or leave its pair out")
    if image.mode in ("I", "F"):
        raise UserError(f"{label} stores 32-bit values, for which white is undefined; save it with 8 or 16 bits")
    return image


def _orientation(image: Image.Image) -> int:
    """1 to 8. Read before the pixels are: `image_size` may not read them, and both must agree on the size."""
    if image.format == "TIFF":
        return 1  # Pillow turns these itself while loading and reports the turned size
    try:
        # For a PNG, getexif() decodes the whole image to look for what may follow the pixels.
        if image.format == "PNG" and "exif" not in image.info:
            return 1
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged EXIF: left as it is; the pixels are still good
        return 1


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
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
    image = _apply_profile(image, profile).convert("RGB")
    if alpha is None:
        return image
    return Image.composite(image, Image.new("RGB", image.size, "white"), alpha)


def _apply_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Converted from its profile to sRGB; unchanged where the profile is sRGB, damaged or of another colour model
    than the pixels (every viewer ignores such a profile too)."""
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

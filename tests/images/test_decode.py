"""Does every kind of image file get its defined answer?"""

import hashlib
import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import pytest
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.images.decode import image_size, open_image
from PIL import Image, ImageCms


@dataclass(frozen=True)
class Bytes:
    """A ImageRef to bytes in memory."""

    data: bytes
    label: str = "cats/w/3.png"

    @property
    def sha256(self):
        return hashlib.sha256(self.data).hexdigest()

    @property
    def size(self):
        return image_size(self.data, self.label)

    def read(self):
        return self.data


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Bytes(file.getvalue())


def png(width, height, depth, colour, rows, *chunks):
    """A PNG written by hand: Pillow writes neither 16-bit colour nor headers that lie."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *(chunk(*one) for one in chunks), chunk(b"IDAT", zlib.compress(rows))]
    return Bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))


def painted(width=40, height=24):
    """Red on the left, blue on the right; the top row is green."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 255
    pixels[:, width // 2 :, 2] = 255
    pixels[:2] = (0, 255, 0)
    return Image.fromarray(pixels)


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


TURNS = {
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
}
"""How a camera stores an upright picture under each EXIF orientation."""


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_comes_out_upright_and_is_measured_so(kind, orientation):
    upright = painted()
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}.get(kind, {})
    ref = saved(TURNS[orientation](upright), kind, exif=exif, **options)
    image = open_image(ref)
    assert ref.size == image.size == upright.size
    assert np.abs(np.asarray(image).astype(int) - np.asarray(upright)).mean() < 6


def test_an_orientation_that_means_nothing_turns_nothing():
    exif = Image.Exif()
    exif[0x0112] = 99
    assert open_image(saved(painted(), "JPEG", exif=exif)).size == (40, 24)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode):
    image = Image.new(mode, (8, 8), (0, 0, 0, 0) if mode == "RGBA" else (0, 0))
    image.putpixel((0, 0), (0, 0, 0, 255) if mode == "RGBA" else (0, 255))
    opened = open_image(saved(image))
    assert opened.getpixel((0, 0)) == (0, 0, 0)
    assert opened.getpixel((5, 5)) == (255, 255, 255)


def test_half_transparent_black_becomes_mid_grey():
    assert open_image(saved(Image.new("RGBA", (4, 4), (0, 0, 0, 128)))).getpixel((0, 0)) == (127, 127, 127)


def test_a_transparent_palette_colour_is_laid_on_white():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 10, 20])
    image.putpixel((0, 0), 0)
    opened = open_image(saved(image, transparency=0))
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert opened.getpixel((2, 2)) == (200, 10, 20)


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    opened = np.asarray(open_image(saved(Image.fromarray(values))))
    assert opened[0, :, 0].tolist() == [0, 1, 128, 255]


def test_sixteen_bit_grey_tiff_of_either_byte_order_is_scaled():
    for kind in ("<u2", ">u2"):
        ref = saved(Image.fromarray(np.array([[0, 32896, 65535]], np.uint16).astype(kind)), "TIFF")
        assert np.asarray(open_image(ref))[0, :, 1].tolist() == [0, 128, 255]


def test_sixteen_bit_colour_is_scaled_and_not_clipped():
    row = b"\0" + np.array([0, 32768, 65535, 25700, 257, 0], ">u2").tobytes()
    opened = np.asarray(open_image(png(2, 1, 16, 2, row)))
    assert np.abs(opened.reshape(-1).astype(int) - [0, 128, 255, 100, 1, 0]).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_grey_palette_and_one_bit_become_rgb(mode):
    opened = open_image(saved(Image.new("L", (6, 4), 255).convert(mode)))
    assert opened.mode == "RGB"
    assert opened.getpixel((1, 1)) == (255, 255, 255)


def test_cmyk_without_profile_keeps_its_colours():
    opened = open_image(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))
    assert opened.mode == "RGB"
    assert np.abs(np.array(opened.getpixel((4, 4))) - [255, 0, 0]).max() < 6


def matrix_profile(swap):
    """A display profile like sRGB's, with the red and green primaries' tags exchanged if `swap`."""
    raw = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    raw = raw.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be")).replace(b"sRGB", b"test")
    if swap:
        raw = raw.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    return raw


def test_an_embedded_profile_decides_the_colour():
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    opened = open_image(saved(red, icc_profile=matrix_profile(swap=True)))
    assert np.abs(np.array(opened.getpixel((0, 0))) - [0, 255, 0]).max() <= 2


def test_a_profile_applies_below_transparency_too():
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 255))
    image.putpixel((0, 0), (255, 0, 0, 0))
    opened = open_image(saved(image, icc_profile=matrix_profile(swap=True)))
    assert np.abs(np.array(opened.getpixel((2, 2))) - [0, 255, 0]).max() <= 2
    assert opened.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("profile", [b"no profile at all", matrix_profile(False)[:100]], ids=["none", "cut"])
def test_a_damaged_profile_leaves_the_colours_alone(profile):
    assert open_image(saved(painted(), icc_profile=profile)).tobytes() == painted().tobytes()


def test_an_srgb_profile_changes_nothing():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert open_image(saved(noise(16, 16), icc_profile=srgb)).tobytes() == noise(16, 16).tobytes()


def test_a_grey_picture_with_a_colour_profile_still_opens():
    assert open_image(saved(Image.new("L", (4, 4), 90), icc_profile=matrix_profile(True))).getpixel((0, 0)) == (90,) * 3


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    ref = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert open_image(ref).getpixel((3, 3)) == (255, 0, 0)


REFUSED = {
    "empty": (Bytes(b""), "0 bytes"),
    "no picture": (Bytes(b"hello, this is text" * 20), "not a picture"),
    "vector picture": (Bytes(b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"), "not a picture"),
    "postscript": (Bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"), "not a picture"),
    "32-bit": (saved(Image.new("F", (4, 4), 0.5), "TIFF"), "32-bit"),
    "too large": (png(8001, 8000, 8, 2, b""), "8001 x 8000 px.*64 megapixels"),
    "bomb": (png(60_000, 60_000, 8, 2, b""), "too large"),
    "text bomb": (png(4, 4, 8, 0, b"\0" * 20, (b"zTXt", b"k\0\0" + zlib.compress(b"a" * 2**25))), "picture"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_opened_is_refused_by_name_when_measured_and_when_opened(what):
    ref, why = REFUSED[what]
    for action in (open_image, lambda ref: ref.size):
        with pytest.raises(UserError, match=why) as error:
            action(ref)
        assert "cats/w/3.png" in str(error.value)


def test_sixty_four_megapixels_are_still_allowed():
    assert png(8000, 8000, 1, 0, b"").size == (8000, 8000)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_picture_cut_short_is_refused_by_name_when_measured_and_when_opened(kind, share):
    data = saved(noise(64, 64), kind).data
    ref = Bytes(data[: int(len(data) * share)])
    for action in (open_image, lambda ref: ref.size):
        with pytest.raises(UserError, match=r"cats/w/3\.png"):
            action(ref)


def test_a_png_with_a_flipped_byte_is_refused():
    data = bytearray(saved(noise(64, 64)).data)
    data[len(data) // 2] ^= 1
    with pytest.raises(UserError, match="damaged"):
        image_size(bytes(data), "x")

"""Pictures are kept once, byte for byte, under the name of what they are; what is no picture is refused."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib

import pytest
from mapo_studio.tests.stored_images import add_image
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.preferences.images import ImageMetadata, image_path, store_image
from mapo_studio.trainer.preferences.schema import ImageRecord
from mapo_studio.trainer.preferences.store import open_store
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sqlalchemy import func, select


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "workspace")


@pytest.fixture
def keep(store):
    def run(data, label="picture", about=ImageMetadata()):  # noqa: B008
        with store.writing() as session:
            return add_image(store, session, data, label, about)

    return run


def files(store):
    return sorted(path for path in store.images.rglob("*") if path.is_file())


def test_the_bytes_are_kept_as_they_were_with_what_they_say(store, keep):
    text = PngInfo()
    text.add_text("parameters", "a cat\nSteps: 20, Seed: 1")
    file = io.BytesIO()
    Image.new("RGB", (7, 5)).save(file, "PNG", pnginfo=text)
    data = file.getvalue()
    kept = keep(data)
    name = hashlib.sha256(data).hexdigest()
    assert (kept.sha256, kept.ending, kept.width, kept.height) == (name, ".png", 7, 5)
    path = image_path(store, kept)
    assert path == store.workspace / "images" / name[:2] / f"{name}.png"
    assert path.read_bytes() == data
    assert files(store) == [path]


def test_the_same_picture_is_kept_once_and_learns_more_about_itself(store, keep, picture_bytes):
    first = keep(picture_bytes(1), "one", ImageMetadata(seed="12345678901234567890", source="here"))
    again = keep(picture_bytes(1), "two", ImageMetadata(seed="7", model="a model"))
    assert again.id == first.id
    assert (again.seed, again.model, again.source) == ("12345678901234567890", "a model", "here")
    with store.reading() as session:
        assert session.scalar(select(func.count()).select_from(ImageRecord)) == 1
    assert len(files(store)) == 1


@pytest.mark.parametrize(
    ("kind", "ending"),
    [("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp"), ("BMP", ".bmp"), ("GIF", ".gif"), ("TIFF", ".tiff")],
)
def test_the_ending_is_that_of_the_content(store, keep, picture_bytes, kind, ending):
    kept = keep(picture_bytes(1, kind=kind), "photo.png")
    assert kept.ending == ending
    assert image_path(store, kept).suffix == ending


def test_a_picture_that_exif_turns_has_the_size_that_is_shown(keep):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(file, "JPEG", exif=exif)
    kept = keep(file.getvalue())
    assert (kept.width, kept.height) == (4, 8)


def bomb():
    """A PNG of a few bytes that says it is 100,000 pixels wide and high."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "x.png is empty"),
        (b"<svg/>", "x.png is not a picture"),
        (b"MZ" + b"\0" * 100, "x.png is not a picture"),
        (bomb(), "x.png is too large"),
        ("cut", "x.png is damaged or cut short"),
    ],
    ids=["empty", "text", "program", "bomb", "cut"],
)
def test_what_is_no_sound_picture_is_refused_and_leaves_nothing(store, keep, picture_bytes, data, said):
    with pytest.raises(UserError, match=said):
        keep(picture_bytes(1)[:200] if data == "cut" else data, "x.png")
    assert files(store) == []
    with store.reading() as session:
        assert session.scalar(select(func.count()).select_from(ImageRecord)) == 0


def test_a_file_that_got_lost_or_cut_short_is_put_back(store, keep, picture_bytes):
    data = picture_bytes(1)
    path = image_path(store, keep(data))
    path.unlink()
    keep(data)
    assert path.read_bytes() == data
    path.write_bytes(data[:50])
    keep(data)
    assert path.read_bytes() == data


def test_a_file_is_never_written_again(store, keep, picture_bytes):
    path = image_path(store, keep(picture_bytes(1)))
    os.utime(path, (5, 5))
    keep(picture_bytes(1))
    assert path.stat().st_mtime == 5


def test_a_full_disk_leaves_no_part_of_a_file(store, picture_bytes, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="free some disk space"):
        store_image(store, picture_bytes(1), "x.png")
    assert files(store) == []


def test_what_is_known_of_a_picture_fits_its_columns(keep, picture_bytes):
    kept = keep(
        picture_bytes(1), "x", ImageMetadata(seed="9" * 100, sampler="e" * 500, model="m" * 5000, source="a\0b\ud800")
    )
    assert (len(kept.seed), len(kept.sampler), len(kept.model), kept.source) == (40, 200, 5000, "ab?")

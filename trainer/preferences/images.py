"""Content-addressed image store: each image once, under the SHA-256 of its bytes, just as it was given.

<workspace>/images/ab/abcdef....png, never overwritten. The bytes are those that came, with all that a PNG says of how
it was made; the ending is the format's that is found in them.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from sqlalchemy import select
from sqlalchemy.orm import Session

from ..atomic_files import atomic_write
from ..images.decode import image_size
from .datasets import slices
from .pairs import storable_text
from .schema import ImageRecord
from .store import Store

_ENDINGS = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "TIFF": ".tiff",
    "GIF": ".gif",
    "AVIF": ".avif",
}


@dataclass(frozen=True)
class ImageMetadata:
    """What is known of how an image was generated, see `schema.ImageRecord`."""

    seed: str | None = None
    sampler: str | None = None
    model: str | None = None
    lora: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class StoredFile:
    """An image file in images/. width, height: in pixels, as it is shown."""

    sha256: str
    ending: str
    width: int
    height: int


def store_image(store: Store, data: bytes, label: str) -> StoredFile:
    """Check the bytes and write them, if they are not there. Needs no transaction; threads may do this beside it.

    label: names the image to a person. Raises UserError where it is no sound image, too large, or the disk is full.
    """
    width, height = image_size(data, label)
    with Image.open(io.BytesIO(data)) as image:
        ending = _ENDINGS[image.format or ""]
    stored = StoredFile(hashlib.sha256(data).hexdigest(), ending, width, height)
    path = image_path(store, stored)
    # Its length tells a whole file from one that a failing disk cut short; its content has been checked by its name.
    if not path.is_file() or path.stat().st_size != len(data):
        with atomic_write(path) as part:
            part.write_bytes(data)
    return stored


def image_record(session: Session, file: StoredFile, metadata: ImageMetadata = ImageMetadata()) -> ImageRecord:
    """The row of a stored file, within `Store.writing`, new if need be. Metadata is completed, never changed."""
    return image_records(session, [(file, metadata)])[file.sha256]


def image_records(session: Session, files: Iterable[tuple[StoredFile, ImageMetadata]]) -> dict[str, ImageRecord]:
    """The rows of many stored files by their sha256, as `image_record` for one after the other."""
    files = list(files)
    records: dict[str, ImageRecord] = {}
    for some in slices([file.sha256 for file, _ in files]):
        known = session.scalars(select(ImageRecord).where(ImageRecord.sha256.in_(some)))
        records |= {record.sha256: record for record in known}
    for file, metadata in files:
        record = records.get(file.sha256)
        if record is None:
            record = records[file.sha256] = ImageRecord(**vars(file), created=time.time())
            session.add(record)
        for name, value in vars(metadata).items():
            if value is not None and getattr(record, name) is None:
                setattr(record, name, storable_text(value)[: _MAX_LENGTHS.get(name)])
    session.flush()
    return records


def image_path(store: Store, image: ImageRecord | StoredFile) -> Path:
    """Where its file lies."""
    return store.images / image.sha256[:2] / f"{image.sha256}{image.ending}"


_MAX_LENGTHS = {"seed": 40, "sampler": 200}
"""Characters that a column holds; PostgreSQL refuses more."""

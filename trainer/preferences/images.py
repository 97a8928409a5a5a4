"""How are pictures kept: once each, under the name of their content, just as they were given.

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
from .pairs import without_unstorable
from .schema import Picture
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
class About:
    """What is known of how a picture was made, see `schema.Picture`."""

    seed: str | None = None
    sampler: str | None = None
    model: str | None = None
    lora: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class KeptFile:
    """A picture file in images/. width, height: in pixels, as it is shown."""

    sha256: str
    ending: str
    width: int
    height: int


def keep_picture(store: Store, session: Session, data: bytes, label: str, about: About = About()) -> Picture:
    """The picture of these bytes, new if it is not there. What is known of it is completed, never changed.

    label: names it to a person. Raises UserError where it is no sound picture, too large, or the disk is full.
    """
    return picture_of(session, keep_file(store, data, label), about)


def keep_file(store: Store, data: bytes, label: str) -> KeptFile:
    """Check the bytes and write them, if they are not there. Needs no transaction; threads may do this beside it."""
    width, height = image_size(data, label)
    with Image.open(io.BytesIO(data)) as image:
        ending = _ENDINGS[image.format or ""]
    kept = KeptFile(hashlib.sha256(data).hexdigest(), ending, width, height)
    path = picture_path(store, kept)
    # Its length tells a whole file from one that a failing disk cut short; its content has been checked by its name.
    if not path.is_file() or path.stat().st_size != len(data):
        with atomic_write(path) as part:
            part.write_bytes(data)
    return kept


def picture_of(session: Session, kept: KeptFile, about: About = About()) -> Picture:
    """The row of a kept file, within `Store.writing`."""
    return pictures_of(session, [(kept, about)])[kept.sha256]


def pictures_of(session: Session, kept: Iterable[tuple[KeptFile, About]]) -> dict[str, Picture]:
    """The rows of many kept files by their sha256, as `picture_of` for each in turn."""
    kept = list(kept)
    pictures: dict[str, Picture] = {}
    for some in slices([file.sha256 for file, _ in kept]):
        pictures |= {one.sha256: one for one in session.scalars(select(Picture).where(Picture.sha256.in_(some)))}
    for file, about in kept:
        picture = pictures.get(file.sha256)
        if picture is None:
            picture = pictures[file.sha256] = Picture(**vars(file), created=time.time())
            session.add(picture)
        for name, value in vars(about).items():
            if value is not None and getattr(picture, name) is None:
                setattr(picture, name, without_unstorable(value)[: _MOST.get(name)])
    session.flush()
    return pictures


def picture_path(store: Store, picture: Picture | KeptFile) -> Path:
    """Where its file lies."""
    return store.images / picture.sha256[:2] / f"{picture.sha256}{picture.ending}"


_MOST = {"seed": 40, "sampler": 200}
"""Characters that a column holds; PostgreSQL refuses more."""

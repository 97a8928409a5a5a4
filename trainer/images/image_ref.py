"""ImageRef: a reference to one image, with its hash, size and a name for people, of which nothing need be decoded."""

from __future__ import annotations

import hashlib
from typing import Protocol

from ..errors import UserError


class ImageRef(Protocol):
    """Where the bytes of one image are: a file, or a cell of a parquet file."""

    @property
    def sha256(self) -> str:
        """Content hash of the bytes as stored, hexadecimal."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as it is shown: its EXIF orientation applied."""

    @property
    def label(self) -> str:
        """How to name this image to a person, e.g. ``cats/w/3.png`` or ``train.parquet row 12, jpg_0``."""

    def read(self) -> bytes:
        """The bytes as stored. Raises UserError where they cannot be read any more."""


def verify_unchanged(data: bytes, image: ImageRef) -> bytes:
    """The bytes, if they are still those that `image` was made of; a UserError otherwise.

    Caches are keyed by sha256: an image replaced meanwhile must not be stored under the old one's name.
    """
    if hashlib.sha256(data).hexdigest() != image.sha256:
        raise UserError(f"{image.label} has changed since the pairs were read; start again")
    return data

"""Where are the bytes of a picture that lies in a file of its own?"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..images.decode import measure
from .pairs import PictureRef


@dataclass(frozen=True)
class PictureFile:
    """A PictureRef to one file. Two refs to the same content under other names are not equal, but their sha256 are."""

    path: Path
    label: str
    sha256: str
    size: tuple[int, int]

    @classmethod
    def at(cls, path: Path, label: str | None = None) -> PictureFile:
        """Read, hash and measure a file. Raises UserError naming it where it is missing or no sound picture."""
        label = label or str(path)
        data = _bytes(path, label)
        return cls(path, label, hashlib.sha256(data).hexdigest(), measure(data, label))

    def read(self) -> bytes:
        data = _bytes(self.path, self.label)
        return as_judged(data, self)


@dataclass(frozen=True)
class UnreadFile:
    """A picture's place: `ref` is the PictureFile there."""

    path: Path
    label: str

    def read(self) -> bytes:
        return _bytes(self.path, self.label)

    def ref(self) -> PictureFile:
        return PictureFile.at(self.path, self.label)


def as_judged(data: bytes, picture: PictureRef) -> bytes:
    """The bytes, if they are still those that `picture` was made of; a UserError otherwise.

    Caches are keyed by sha256: a picture replaced meanwhile must not be stored under the old one's name.
    """
    if hashlib.sha256(data).hexdigest() != picture.sha256:
        raise UserError(f"{picture.label} has changed since the pairs were read; start again")
    return data


def _bytes(path: Path, label: str) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a device or a pipe may never end
            raise UserError(f"{label} cannot be read: it is no file ({path})")
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{label} is missing ({path})") from None
    except OSError as error:
        raise UserError(f"{label} cannot be read: {error.strerror or error} ({path})") from error

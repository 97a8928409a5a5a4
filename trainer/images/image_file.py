"""Image files: read, hash and measure an image that lies in a file of its own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .decode import image_size
from .image_ref import verify_unchanged


@dataclass(frozen=True)
class ImageFile:
    """An ImageRef to one file. Two refs to the same content under other names are not equal, but their sha256 are."""

    path: Path
    label: str
    sha256: str
    size: tuple[int, int]

    @classmethod
    def at(cls, path: Path, label: str | None = None) -> ImageFile:
        """Read, hash and measure a file. Raises UserError naming it where it is missing or no sound image."""
        label = label or str(path)
        data = _bytes(path, label)
        return cls(path, label, hashlib.sha256(data).hexdigest(), image_size(data, label))

    def read(self) -> bytes:
        data = _bytes(self.path, self.label)
        return verify_unchanged(data, self)


@dataclass(frozen=True)
class UnreadFile:
    """An image's place: `ref` is the ImageFile there."""

    path: Path
    label: str

    def read(self) -> bytes:
        return _bytes(self.path, self.label)

    def ref(self) -> ImageFile:
        return ImageFile.at(self.path, self.label)


def _bytes(path: Path, label: str) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a device or a pipe may never end
            raise UserError(f"{label} cannot be read: it is no file ({path})")
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{label} is missing ({path})") from None
    except OSError as error:
        raise UserError(f"{label} cannot be read: {error.strerror or error} ({path})") from error

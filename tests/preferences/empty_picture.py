"""A picture that is nothing but its name, for tests of what is said about pictures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EmptyPicture:
    """Has what `ImageRef` asks for."""

    sha256: str
    label: str = ""
    size: tuple[int, int] = (64, 64)

    def read(self) -> bytes:
        return b""

"""What a single-file checkpoint holds, told by its header alone: no weight is read here."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors format


@dataclass(frozen=True)
class Checkpoint:
    """A .safetensors file: the shapes and stored dtypes of its tensors by name, and its metadata."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    metadata: Mapping[str, str]

    def has(self, *prefixes: str) -> bool:
        """Does any tensor's name begin with one of these?"""
        return any(name.startswith(prefixes) for name in self.shapes)

    def read(self, prefix: str) -> Iterator[tuple[str, Tensor]]:
        """The tensors whose names begin with `prefix`, under their full names, on the CPU.

        They are views of the mapped file: nothing is in memory until it is used, and a copy must be made of what is
        to outlive a replacement of the file.
        """
        from safetensors import safe_open

        with safe_open(self.path, framework="pt", device="cpu") as file:
            for name in self.shapes:
                if name.startswith(prefix):
                    yield name, file.get_tensor(name)


def read_header(path: Path) -> Checkpoint:
    """Raises UserError if the file is not a whole safetensors file."""
    size = path.stat().st_size
    broken = f"{path} is not a whole safetensors file"
    advice = "Download or copy it again."
    if size < 8:
        raise UserError(f"{broken}: it has only {size} bytes. {advice}")
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(size - 8, _LARGEST_HEADER):
            raise UserError(f"{broken}: its header is cut off or is no header. {advice}")
        try:
            header = json.loads(file.read(length))
            metadata = header.pop("__metadata__", {})
            shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
            dtypes = {name: entry["dtype"] for name, entry in header.items()}
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise UserError(f"{broken}: its header cannot be read. {advice}") from error
    if 8 + length + end > size:
        missing = 8 + length + end - size
        raise UserError(f"{broken}: the last {missing / 2**20:,.1f} MiB are missing. {advice}")
    return Checkpoint(path, shapes, dtypes, metadata)

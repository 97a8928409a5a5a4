"""Safetensors files: the one reader and writer of their headers, and of single tensors. Works without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..text import format_size

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors format
_ADVICE = "Download or copy it again."


@dataclass(frozen=True)
class SafetensorsFile:
    """A .safetensors file by its header: the shapes and stored dtypes of its tensors by name, and its metadata.

    spans: the first byte of each tensor in the file, and the first after it. header: as it was read.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    metadata: Mapping[str, str]
    spans: Mapping[str, tuple[int, int]]
    header: Header

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

    def tensor(self, name: str) -> Tensor:
        """One tensor on the CPU, read into memory of its own: nothing of the file is mapped.

        Raises UserError where it is of a type that torch does not know, or the file is no longer as long as it was.
        """
        import torch

        kinds = {
            "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
            "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
            "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
            "U8": torch.uint8, "BOOL": torch.bool,
        }  # fmt: skip
        kind = kinds.get(self.dtypes[name])
        if kind is None:
            raise UserError(f"{self.path}: {name} is stored as {self.dtypes[name]}, which cannot be read here.")
        begin, end = self.spans[name]
        tensor = torch.empty(self.shapes[name], dtype=kind)
        if tensor.nbytes != end - begin:
            raise UserError(f"{self.path} is not a whole safetensors file: {name} has no room in it. {_ADVICE}")
        room = memoryview(tensor.view(-1).view(torch.uint8).numpy())
        with self.path.open("rb", buffering=0) as file:
            file.seek(begin)
            while room:
                read = file.readinto(room)
                if not read:
                    raise UserError(f"{self.path} is not a whole safetensors file: it ends within {name}. {_ADVICE}")
                room = room[read:]
        return tensor

    def array(self, name: str) -> np.ndarray:
        """One tensor as float32 or float64, read into memory of its own; without torch for all but 8-bit floats.

        Raises UserError as `tensor` does.
        """
        import numpy as np

        stored = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}.get(self.dtypes[name])
        if stored is None:
            return self.tensor(name).float().numpy()
        begin, end = self.spans[name]
        with self.path.open("rb") as file:
            file.seek(begin)
            data = file.read(end - begin)
        shape = self.shapes[name]
        if len(data) != end - begin or len(data) != np.dtype(stored).itemsize * math.prod(shape):
            raise UserError(f"{self.path} is not a whole safetensors file: {name} has no room in it. {_ADVICE}")
        array = np.frombuffer(data, stored).reshape(shape)
        if self.dtypes[name] == "BF16":  # the upper half of a float32
            return (array.astype("<u4") << 16).view("<f4")
        return array.astype("<f4") if array.dtype.itemsize < 4 else array.copy()


def read_header(path: Path) -> SafetensorsFile:
    """Raises UserError if the file is not a whole safetensors file, FileNotFoundError if there is none."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) == 8 and length <= min(size - 8, _LARGEST_HEADER):
            head += file.read(length)
    try:
        header = parse_header(head, size)
    except ValueError as error:
        raise UserError(f"{path} is not a whole safetensors file: {error}. {_ADVICE}") from error
    entries = header.entries.items()
    return SafetensorsFile(
        path,
        shapes={name: tuple(entry["shape"]) for name, entry in entries},
        dtypes={name: entry["dtype"] for name, entry in entries},
        metadata=header.metadata,
        spans={name: header.span(name) for name in header.entries},
        header=header,
    )


@dataclass(frozen=True)
class Header:
    """entries: tensor's name -> its dtype, shape and data_offsets, in the file's order; body: where tensors begin."""

    entries: Mapping[str, Mapping[str, Any]]
    metadata: Mapping[str, str]
    body: int

    def span(self, name: str) -> tuple[int, int]:
        """The first byte of a tensor in the file, and the first after it."""
        begin, end = self.entries[name]["data_offsets"]
        return self.body + begin, self.body + end

    @property
    def end(self) -> int:
        """The first byte after the last tensor."""
        return max((self.span(name)[1] for name in self.entries), default=self.body)

    def encoded(self, metadata: Mapping[str, str]) -> bytes:
        """The bytes of a file with the same tensors and this metadata, up to its first tensor."""
        header = json.dumps({**self.entries, "__metadata__": dict(metadata)}, separators=(",", ":")).encode()
        header += b" " * (-len(header) % 8)  # the format aligns the tensors to 8 bytes
        return len(header).to_bytes(8, "little") + header


def parse_header(data: bytes, size: int | None = None) -> Header:
    """The header that `data` begins with, of a file of `size` bytes (by default of those in `data`).

    Raises ValueError, saying what is wrong, if it is no header or the file is shorter than its tensors.
    """
    size = len(data) if size is None else size
    if size < 8:
        raise ValueError(f"it has only {size} bytes")
    length = int.from_bytes(data[:8], "little")
    if length > min(size - 8, _LARGEST_HEADER):
        raise ValueError("its header is cut off or is no header")
    try:
        entries = json.loads(data[8 : 8 + length])
        metadata = entries.pop("__metadata__", None) or {}  # null is taken as none
        header = Header(entries, {str(key): str(value) for key, value in metadata.items()}, 8 + length)
        for entry in entries.values():
            tuple(entry["shape"]), entry["dtype"]
        end = header.end
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ValueError("its header cannot be read") from error
    if end > size:
        raise ValueError(f"the last {format_size(end - size)} are missing")
    return header

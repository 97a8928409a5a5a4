"""What a .safetensors file holds, told by its header alone, and how a tensor of it is read."""

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
_ADVICE = "Download or copy it again."


@dataclass(frozen=True)
class Checkpoint:
    """A .safetensors file: the shapes and stored dtypes of its tensors by name, and its metadata.

    spans: the first byte of each tensor in the file, and the first after it.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    metadata: Mapping[str, str]
    spans: Mapping[str, tuple[int, int]]

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


def read_header(path: Path) -> Checkpoint:
    """Raises UserError if the file is not a whole safetensors file."""
    size = path.stat().st_size
    broken = f"{path} is not a whole safetensors file"
    if size < 8:
        raise UserError(f"{broken}: it has only {size} bytes. {_ADVICE}")
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(size - 8, _LARGEST_HEADER):
            raise UserError(f"{broken}: its header is cut off or is no header. {_ADVICE}")
        try:
            header = json.loads(file.read(length))
            metadata = header.pop("__metadata__", {})
            shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
            dtypes = {name: entry["dtype"] for name, entry in header.items()}
            body = 8 + length
            spans = {
                name: (body + entry["data_offsets"][0], body + entry["data_offsets"][1])
                for name, entry in header.items()
            }
            end = max((last for _, last in spans.values()), default=body)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise UserError(f"{broken}: its header cannot be read. {_ADVICE}") from error
    if end > size:
        missing = end - size
        raise UserError(f"{broken}: the last {missing / 2**20:,.1f} MiB are missing. {_ADVICE}")
    return Checkpoint(path, shapes, dtypes, metadata, spans)

"""Tensor cache: entries on the disk that can be trusted after a crash.

An entry is a safetensors file named by its key, <kind>/ab/abcdef....safetensors. It is written beside its place and
moved there whole, so a killed process leaves no half entry under a true name; its metadata hold a checksum, so one that
the disk or a power cut spoilt is noticed and made again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from ..errors import UserError
from ..models.safetensors_file import parse_header

_STALE_AFTER_S = 3600


def entry(cache: Path, kind: str, *parts: object) -> Path:
    """Where the entry belongs whose content depends on exactly these parts (text and numbers)."""
    key = hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()
    return cache / kind / key[:2] / f"{key}.safetensors"


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write an entry of CPU tensors. Raises UserError naming the folder if the disk is full or closed to us."""
    from safetensors.torch import save

    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    data = save(whole)
    checksum = zlib.crc32(memoryview(data)[parse_header(data).body :])
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(save(whole, metadata={"crc32": str(checksum)}))
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        folder = path.parents[2]
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"the disk is full: no room left in the cache folder {folder}; free some, then go on"
            ) from error
        raise UserError(f"the cache folder {folder} cannot be written to: {error.strerror or error}") from error


def read(path: Path) -> dict[str, Tensor]:
    """An entry's tensors, on the CPU. Raises UserError if it is missing or damaged."""
    from safetensors.torch import load

    data = _valid(path)
    if data is None:
        raise UserError(f"the cache entry {path} is missing or damaged; start again, it will be made anew")
    return load(data)


def is_valid(path: Path) -> bool:
    """Whether `read` would succeed; reads the whole entry."""
    return _valid(path) is not None


def remove_stale(cache: Path) -> None:
    """Remove what killed processes left half written. Younger leftovers may belong to a living one and stay."""
    for left in cache.glob("*/??/*.part"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_AFTER_S:
                left.unlink()


def _valid(path: Path) -> bytes | None:
    try:
        data = path.read_bytes()
        header = parse_header(data)
    except (OSError, ValueError):
        return None
    content = memoryview(data)[header.body :]
    whole = header.entries and header.end == len(data) and str(zlib.crc32(content)) == header.metadata.get("crc32")
    return data if whole else None

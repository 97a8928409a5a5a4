"""Atomic writes: a file is either whole or absent, since it is written beside its place and renamed into it."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import DiskFull

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; on success it is flushed to disk and replaces `path`.

    Nothing is left behind on failure. Raises DiskFull where the disk is full or the folder cannot be written.
    """
    with explain_disk_full(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        part = Path(name)
        try:
            # mkstemp makes files private; ours are ordinary files that a host under another user may read.
            part.chmod(0o644)
            yield part
            _flush(part)
            os.replace(part, path)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` by `text`, UTF-8."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def explain_disk_full(path: Path) -> Iterator[None]:
    """Turn the errors of a full or write-protected disk into a DiskFull that names `path` and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise DiskFull(_disk_full_message(path)) from error
        if isinstance(error, PermissionError):
            raise DiskFull(f"{path} cannot be written: check the permissions of its folder") from error
        raise
    except Exception as error:
        # safetensors and torch wrap the operating system's error in one of their own.
        if any(os.strerror(code) in str(error) for code in _DISK_FULL):
            raise DiskFull(_disk_full_message(path)) from error
        raise


def _disk_full_message(path: Path) -> str:
    return f"no room to write {path}: free some disk space and try again"


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())

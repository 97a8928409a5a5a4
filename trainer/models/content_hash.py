"""Content hash of weight files, remembered while they do not change: is this the same model as last time?"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from ..atomic_files import write_text
from ..errors import UserError

_DIGITS = 16
_BLOCK = 1 << 22  # bytes


def identity_of(files: Sequence[Path], memo: Path | None = None) -> str:
    """16 hex digits that change when the content of any of the files does.

    A file is read once: its SHA-256 is remembered in `memo` (a JSON file; the user's cache folder by default) under
    its path, size and time of change. A memo that cannot be read or written costs a new reading, nothing else.
    """
    memo = memo or _user_cache() / "identities.json"
    known = _remembered(memo)
    fresh: dict[str, str] = {}
    digests = []
    for file in files:
        stat = file.stat()
        key = f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in known:
            fresh[key] = known[key] = sha256_of(file)
        digests.append(known[key])
    if fresh:
        _remember(memo, fresh)
    if len(digests) == 1:
        return digests[0][:_DIGITS]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:_DIGITS]


def sha256_of(file: Path) -> str:
    """Hexadecimal, of the file's content."""
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _remembered(memo: Path) -> dict[str, str]:
    try:
        known = json.loads(memo.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in known.items() if isinstance(v, str)} if isinstance(known, dict) else {}


def _remember(memo: Path, fresh: dict[str, str]) -> None:
    # Read again: another process may have added its own since.
    entries = {key: value for key, value in _remembered(memo).items() if _still_there(key)} | fresh
    try:
        write_text(memo, json.dumps(entries, indent=1, sort_keys=True))
    except (OSError, UserError):
        return


def _still_there(key: str) -> bool:
    return Path(key.rsplit("|", 2)[0]).exists()


def _user_cache() -> Path:
    if os.name == "nt":
        home = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "mapo-studio"

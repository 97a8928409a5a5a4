"""Event log as JSON lines: a kill costs one line at most, and any process can read along."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..atomic_files import explain_disk_full

Event = dict[str, Any]
Listener = Callable[[Event], None]

_TAIL = 16 * 1024
_OLD_NAMES = {"winner_error": "chosen_error", "loser_error": "rejected_error", "behind": "waiting_for"}
"""What earlier versions wrote -> what it is called now, see `read`."""
_OLD_EVENTS = {"asked": "requested", "turn": "acquired", "running": "acquired"}


def append(file: Path, event: str, values: dict[str, Any]) -> Event:
    """Add one event as a JSON object on a line of its own, and return it.

    `time` is seconds since 1970. A number that is not finite is written as null, as JSON wants it.
    """
    line: Event = {"time": round(time.time(), 3), "event": event, **values}
    with explain_disk_full(file), file.open("a+b") as log:
        # A line cut short by a kill must not swallow the next one.
        log.seek(0, 2)
        if log.tell():
            log.seek(-1, 2)
            if log.read(1) != b"\n":
                log.write(b"\n")
        log.write(json.dumps(_plain(line), ensure_ascii=False, allow_nan=False).encode() + b"\n")
    return line


def read(file: Path) -> list[Event]:
    """Every event of `file` that is whole, the oldest first; none where the file is not there.

    Events and values that an earlier version wrote under another name have today's.
    """
    if not file.is_file():
        return []
    return _parsed(file.read_text(encoding="utf-8", errors="replace"))


def read_end(file: Path) -> list[Event]:
    """The newest events of `file`, the oldest of them first: what tells how things stand, however long the file is."""
    try:
        with file.open("rb") as log:
            end = log.seek(0, 2)
            log.seek(max(0, end - _TAIL))
            return _parsed(log.read().decode("utf-8", errors="replace"))
    except FileNotFoundError:
        return []


def _parsed(text: str) -> list[Event]:
    events = []
    for line in text.split("\n"):  # not splitlines: a line separator inside a message is no end of a line
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(event, dict):
            events.append(_of_today(event))
    return events


def _of_today(event: Event) -> Event:
    event = {_OLD_NAMES.get(name, name): value for name, value in event.items()}
    name = event.get("event")
    if isinstance(name, str):
        event["event"] = _OLD_EVENTS.get(name, name)
    if name == "waiting" and event.get("message"):  # jobs that are no trainings had a sentence
        event["waiting_for"] = str(event["message"]).removesuffix(" has the device")
    return event


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value

"""Renamed settings: former keys and flags, which are still taken, and a line for each that names the present one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

RENAMED: Mapping[tuple[str, str], str] = {
    ("data", "most_pairs"): "max_pairs",
    ("objective", "loser_guard"): "safeguard",
}
"""(table of the RunConfig, former key) -> key."""
REMOVED: Mapping[tuple[str, str], Any] = {("training", "channels_last"): "auto"}
"""(table, key) -> its default; it has no effect any more."""


def current_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by table, with every former key under its present name."""
    tables = {name: dict(table) if isinstance(table, Mapping) else table for name, table in values.items()}
    for (table, former), key in RENAMED.items():
        if former in _table(tables, table):
            value = tables[table].pop(former)
            tables[table].setdefault(key, value)
    for table, key in REMOVED:
        _table(tables, table).pop(key, None)
    return tables


def former_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse, for digests of settings that were taken under the former names."""
    tables = {name: dict(table) if isinstance(table, Mapping) else table for name, table in values.items()}
    for (table, former), key in RENAMED.items():
        if key in _table(tables, table):
            tables[table][former] = tables[table].pop(key)
    for (table, key), default in REMOVED.items():
        if table in tables:
            tables[table].setdefault(key, default)
    return tables


def key_notices(values: Mapping[str, Any]) -> list[str]:
    """A line for each former key in `values`."""
    lines = [
        f"{table}.{former} is called {table}.{key} now"
        for (table, former), key in RENAMED.items()
        if former in _table(values, table)
    ]
    return lines + [f"{table}.{key} has no effect any more" for table, key in REMOVED if key in _table(values, table)]


def current_flags(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(a command line with every former flag under its present name, a line for each)."""
    renamed = {_flag(former): _flag(key) for (_, former), key in RENAMED.items()}
    removed = {_flag(key) for _, key in REMOVED}
    current: list[str] = []
    lines: list[str] = []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        flag = name.replace("_", "-") if name.startswith("--") else name
        if flag in removed:
            lines.append(f"{flag} has no effect any more")
            if not equals:
                next(rest, None)
        elif flag in renamed:
            lines.append(f"{flag} is called {renamed[flag]} now")
            current.append(renamed[flag] + equals + value)
        else:
            current.append(word)
    return current, lines


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _table(values: Mapping[str, Any], name: str) -> Any:
    table = values.get(name)
    return table if isinstance(table, Mapping) else {}

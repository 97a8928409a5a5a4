"""Formatters for people: durations, file sizes, shares and counts, alike in every face; and numbers out of events."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def format_duration(seconds: float) -> str:
    """42 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def format_size(size: float) -> str:
    """Bytes as file managers show them, in powers of 1000: 512 bytes, 13.5 KB, 2.6 GB."""
    if size < 1000:
        return f"{size:.0f} bytes"
    for unit in ("KB", "MB"):
        size /= 1000
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} GB"


def format_percent(share: float) -> str:
    """A share in [0, 1]: 83 %."""
    return f"{100 * share:.0f} %"


def format_interval(share: float, low: float | None, high: float | None) -> str:
    """A share with its interval in brackets, as every face shows it: 83 % (71-91 %); alone where none was kept."""
    if low is None or high is None:
        return format_percent(share)
    return f"{format_percent(share)} ({100 * low:.0f}-{100 * high:.0f} %)"


def format_count(count: int, noun: str) -> str:
    """1 image, 2 images."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def finite_number(event: Mapping[str, Any], name: str) -> float | None:
    """A finite number of an event, None where it is missing or null."""
    value = event.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)

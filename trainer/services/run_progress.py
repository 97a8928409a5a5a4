"""Run progress: what a run does at this moment, as a bar and a line, the same in every face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..jobs.job import Status
    from ..runs.run_folder import Event

ENCODING_PHASES = {"check": "looking through the cache", "text": "encoding prompts", "latents": "encoding pictures"}
"""The phases of "encoding" events, in words."""

_ASIDE = ("warning", "checkpoint")
"""Events that say nothing about what the run does next."""


@dataclass(frozen=True)
class RunProgress:
    """activity: what it does or waits for, in words. done of total: 0 of 0 where nothing is counted; steps where
    is_training, else what `activity` counts."""

    activity: str
    done: int = 0
    total: int = 0
    is_training: bool = False


def run_progress(status: Status, events: Sequence[Event]) -> RunProgress:
    """status: of the run now; events: the end of its log is enough."""
    if status.phase == "waiting":
        return RunProgress(
            f"waits for its turn: {status.waiting_for} has the device" if status.waiting_for else "starts"
        )
    newest = next((event for event in reversed(events) if event["event"] not in _ASIDE), {})
    if newest.get("event") == "encoding":
        activity = ENCODING_PHASES.get(newest["phase"], "encoding")
        return RunProgress(activity, int(newest["done"]), int(newest["total"]))
    if status.phase == "running" and (newest.get("event") in ("acquired", "requested") or not status.total):
        return RunProgress("loading the base")
    return RunProgress("training", status.done, status.total, is_training=True)

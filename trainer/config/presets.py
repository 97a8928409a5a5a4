"""Which settings suit which card? By their memory: presets/*.toml, from what memory.py counts (docs/cards.md).

Whichever is taken, four pairs make a step: presets change how a step is computed, not what is learned from how much.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import UserError
from .run_config import RunConfig, parse_config, read_toml

AUTOMATIC = "automatic"
NONE = "none"
"""Not names of presets: the one for this machine's card; settings as they are by themselves."""

_FOLDER = Path(__file__).with_name("presets")
_GIB = 2**30
_IN_PIECES, _CONTEXT = 1.1, 0.5
"""What is counted needs a tenth more, as memory lies in pieces and kernels want some for themselves, and half a GiB
that CUDA takes before anything is computed."""
_REPORTED = 0.9
"""A card of 24 GB may report as little as this share of 24 GiB: some of it corrects errors or belongs to the driver."""
_CALLED = {"sdxl": "SDXL", "sd15": "SD 1.5"}


@dataclass(frozen=True)
class Preset:
    """Settings for cards with `card` GB of memory. title and about are for a person.

    takes: family -> GiB that training it was counted to take at its peak; one that is not in it does not fit the card.
    settings: parts of a RunConfig, as plain values.
    """

    card: int
    title: str
    about: str
    takes: dict[str, float]
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.card} GB"

    @property
    def least(self) -> float:
        """GiB that a card must report to get it."""
        return max(room_for(max(self.takes.values()) * _GIB) / _GIB, self.card * _REPORTED)


def room_for(peak: float) -> float:
    """Bytes of memory that a card must have for what is counted to take `peak` bytes."""
    return peak * _IN_PIECES + _CONTEXT * _GIB


@lru_cache(maxsize=1)
def presets() -> tuple[Preset, ...]:
    """All of them, for the smallest card first."""
    found = [Preset(**read_toml(file)) for file in _FOLDER.glob("*.toml")]
    return tuple(sorted(found, key=lambda preset: preset.card))


def preset_named(name: str) -> Preset:
    """Raises UserError naming those there are."""
    for preset in presets():
        if preset.name.lower() == name.strip().lower():
            return preset
    raise UserError(f"there is no preset {name!r}: use {', '.join(preset.name for preset in presets())}")


def preset_for(memory: int | None) -> Preset | None:
    """The one for the largest card that a card of `memory` bytes is no smaller than; None where there is no card.

    A card that is smaller than all of them gets the most sparing one.
    """
    if memory is None:
        return None
    fitting = [preset for preset in presets() if preset.least * _GIB <= memory]
    return fitting[-1] if fitting else presets()[0]


def apply(config: RunConfig, preset: Preset) -> RunConfig:
    """`config` with the settings of `preset`; all others stay."""
    return parse_config(merged(config.model_dump(), preset.settings), f"preset {preset.name}")


def merged(below: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Settings, by part, with those in `over` in place of those `below`."""
    parts = {part: {**below.get(part, {}), **values} for part, values in over.items() if isinstance(values, dict)}
    return {**below, **over, **parts}


def doubt(preset: Preset, family: str, memory: int | None) -> str | None:
    """A sentence where a base of `family` is not expected to fit a card of `memory` bytes (None: the one that `preset`
    is for)."""
    takes = preset.takes.get(family)
    named = _CALLED.get(family, family)
    if takes is None:
        return f"Memory: the settings for {preset.name} are not for {named}: it will probably not fit."
    needed = room_for(takes * _GIB)
    if memory is None or needed <= memory:
        return None
    return (
        f"Memory: {named} with the settings for {preset.name} needs about {needed / _GIB:.1f} GiB, and the card has "
        f"{memory / _GIB:.1f}: it will probably not fit."
    )

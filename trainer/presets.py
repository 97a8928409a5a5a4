"""Which settings suit which card? By their memory: trainer/presets/*.toml, from what benchmarks/count_memory.py counts.

Whichever is taken, four pairs make a step: presets change how a step is computed, not what is learned from how much.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .config import RunConfig, parse_config, read_toml
from .errors import UserError

AUTOMATIC = "automatic"
"""Not the name of a preset: the one for this machine's card."""

_FOLDER = Path(__file__).with_name("presets")
_GIB = 2**30
_IN_PIECES, _CONTEXT = 1.1, 0.5
"""What a step is counted to take needs a tenth more, as memory lies in pieces and kernels want some for themselves, and
half a GiB that CUDA takes before anything is computed."""
_REPORTED = 0.9
"""A card of 24 GB may report as little as this share of 24 GiB: some of it corrects errors or belongs to the driver."""
_CALLED = {"sdxl": "SDXL", "sd15": "SD 1.5"}


@dataclass(frozen=True)
class Preset:
    """Settings for cards with `card` GB of memory. title and about are for a person.

    takes: family -> GiB that a step of it was counted to take; a family that is not in it does not fit such a card.
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
        return max(max(self.takes.values()) * _IN_PIECES + _CONTEXT, self.card * _REPORTED)


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
    values = config.model_dump()
    for part, settings in preset.settings.items():
        values[part] = {**values[part], **settings}
    return parse_config(values, f"preset {preset.name}")


def doubt(preset: Preset, family: str) -> str | None:
    """A sentence where a base of `family` is not expected to fit a card that `preset` is for."""
    if family in preset.takes:
        return None
    there = next((one for one in presets() if family in one.takes), None)
    smallest = f", and {_CALLED.get(family, family)} needs {there.name}" if there else ""
    return f"Memory: the settings for {preset.name} are for {_and(preset.takes)}{smallest}: it will probably not fit."


def _and(families: dict[str, float]) -> str:
    return " and ".join(_CALLED.get(family, family) for family in families)

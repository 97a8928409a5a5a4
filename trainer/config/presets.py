"""Presets: settings for cards by their memory, in presets/*.toml.

Which one suits a card, and what a family takes of it, is for models/card_presets.py to say.
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


@dataclass(frozen=True)
class Preset:
    """Settings for cards with `card` GB of memory. title and about are for a person.

    What training a family with them takes is in its row of models/registry.py.
    settings: parts of a RunConfig, as plain values.
    """

    card: int
    title: str
    about: str
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.card} GB"


@lru_cache(maxsize=1)
def presets() -> tuple[Preset, ...]:
    """All of them, for the smallest card first."""
    files = _FOLDER.glob("*-gb.toml")
    return tuple(sorted((Preset(**read_toml(file)) for file in files), key=lambda preset: preset.card))


def preset_named(name: str) -> Preset:
    """Raises UserError naming those there are."""
    for preset in presets():
        if preset.name.lower() == name.strip().lower():
            return preset
    raise UserError(f"there is no preset {name!r}: use {', '.join(preset.name for preset in presets())}")


def tiny_settings() -> dict[str, Any]:
    """Parts of a RunConfig with which the embedded base learns a taste in about a minute: presets/tiny.toml."""
    return read_toml(_FOLDER / "tiny.toml")


def apply(config: RunConfig, preset: Preset) -> RunConfig:
    """`config` with the settings of `preset`; all others stay."""
    return parse_config(deep_update(config.model_dump(), preset.settings), f"preset {preset.name}")


def deep_update(below: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Settings, by part, with those in `over` in place of those `below`."""
    parts = {part: {**below.get(part, {}), **values} for part, values in over.items() if isinstance(values, dict)}
    return {**below, **over, **parts}

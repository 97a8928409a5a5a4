"""Presets by memory: which one suits a card, and whether a family's base fits it, by the registry's counted sizes."""

from __future__ import annotations

from ..config.presets import Preset, presets
from .registry import FAMILIES, family_title

_GIB = 2**30
_IN_PIECES, _CONTEXT = 1.1, 0.5
"""What is counted needs a tenth more, as memory lies in pieces and kernels want some for themselves, and half a GiB
that CUDA takes before anything is computed."""
_REPORTED = 0.9
"""A card of 24 GB may report as little as this share of 24 GiB: some of it corrects errors or belongs to the driver."""


def required_memory(peak: float) -> float:
    """Bytes of memory that a card must have for what is counted to take `peak` bytes."""
    return peak * _IN_PIECES + _CONTEXT * _GIB


def least_memory(preset: Preset) -> float:
    """GiB that a card must report to get `preset`: enough for every family that it is for."""
    counted = [sizes[preset.card] for family in FAMILIES.values() if preset.card in (sizes := family.preset_gib)]
    return max(required_memory(max(counted, default=0) * _GIB) / _GIB, preset.card * _REPORTED)


def preset_for(memory: int | None) -> Preset | None:
    """The one for the largest card that a card of `memory` bytes is no smaller than; None where there is no card.

    A card that is smaller than all of them gets the one for the smallest card.
    """
    if memory is None:
        return None
    fitting = [preset for preset in presets() if least_memory(preset) * _GIB <= memory]
    return fitting[-1] if fitting else presets()[0]


def memory_warning(preset: Preset, family: str, memory: int | None) -> str | None:
    """A sentence where a base of `family` is not expected to fit a card of `memory` bytes (None: the one that `preset`
    is for)."""
    sizes = FAMILIES[family].preset_gib if family in FAMILIES else {}
    title = family_title(family)
    if preset.card not in sizes:
        return f"Memory: the settings for {preset.name} are not for {title}: it will probably not fit."
    needed = required_memory(sizes[preset.card] * _GIB)
    if memory is None or needed <= memory:
        return None
    return (
        f"Memory: {title} with the settings for {preset.name} needs about {needed / _GIB:.1f} GiB, and the card has "
        f"{memory / _GIB:.1f}: it will probably not fit."
    )

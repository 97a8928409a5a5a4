"""Does a training fit a card, with which preset, and what is to be changed where it does not?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..config.memory_savings import all_more_sparing
from ..config.presets import AUTOMATIC, NONE, Preset, preset_named, presets
from ..config.run_config import RunConfig
from ..device import Memory
from ..errors import UserError
from ..models.card_presets import least_memory, required_memory
from .estimate import GIB, Count, Footprint

Given = Callable[["Preset | None"], RunConfig]
"""The settings that were asked for, over those of a preset (None: over the defaults)."""

_REPORTED = 0.95
"""A card that is sold as 8 GB reports about this share of 8 GiB."""


@dataclass(frozen=True)
class Fit:
    """What was counted for `config`. card: bytes of the card that it was counted for, if there is one or one was named;
    free: of them, at this moment; preset: the name of the one that `config` follows. warnings: for a person."""

    family: str
    side: int
    config: RunConfig
    preset: str
    footprint: Footprint
    card: int | None
    free: int | None
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """Plain values; sizes in GiB."""
        return {
            "family": self.family,
            "resolution": self.side,
            "rank": self.config.adapter.rank,
            "targets": self.config.adapter.targets,
            "quantize": self.config.training.quantize,
            "pairs_at_once": self.config.training.batch_size,
            "split_pair": self.config.training.split_pair,
            "gradient_checkpointing": self.config.training.gradient_checkpointing,
            "optimizer": self.config.optimization.optimizer,
            "preset": self.preset,
            **self.footprint.in_gib(),
            "needs_gib": round(required_memory(self.footprint.most) / GIB, 3),
            "card_gib": None if self.card is None else round(self.card / GIB, 3),
            "fits": self.card is None or required_memory(self.footprint.most) <= self.card,
            "warnings": self.warnings,
        }

    def summary(self) -> str:
        """For a person: a small table, and what follows from it."""
        found, training = self.footprint, self.config.training
        pairs = "one pair" if training.batch_size == 1 else f"{training.batch_size} pairs"
        rows = [
            ("weights of the base", found.weights),
            ("LoRA and its gradients", found.adapter),
            ("optimizer", found.optimizer),
            ("activations", found.activations),
            ("a step at its peak", found.peak),
            ("painting a sample picture", found.sampling),
            ("encoding pictures and captions", found.encoding),
        ]
        lines = [
            f"{self.family} at {self.side} px, rank {self.config.adapter.rank} on {self.config.adapter.targets}, "
            f"{pairs} at a time, preset {self.preset}; counted, in GiB:",
            *(f"  {name:32}{size / GIB:6.2f}" for name, size in rows),
        ]
        if found.host:
            lines.append(f"  {'in the computer instead':32}{found.host / GIB:6.2f}")
        needed = f"With what CUDA takes besides, a card needs {required_memory(found.most) / GIB:.1f} GiB"
        lines.append(needed + (f"; this one has {self.card / GIB:.1f}." if self.card else "."))
        return "\n".join([*lines, *(f"! {one}" for one in self.warnings)])


def fitted(count: Count, given: Given, preset: str, card: Memory | None) -> Fit:
    """`given` with the preset called `preset` ("automatic": the one that fits) on `card`, or on no card that is known.

    Without a card, automatic takes the smallest card that the training fits. Raises UserError, with what to change,
    where nothing fits.
    """
    tried = None
    for one in _candidates(preset, card):
        config = given(one)
        tried = count.of(config)
        room = card.total if card else _sold_as(one)
        if room is None or required_memory(tried.most) <= room:
            return _fit(count, config, one.name if one else NONE, tried, card)
    assert tried is not None
    raise UserError(_mend(count, config, tried, room))


def _candidates(preset: str, card: Memory | None) -> Iterator[Preset | None]:
    """In the order in which they are tried: for a card the one that takes most of it, without one the most sparing."""
    if preset == NONE:
        yield None
    elif preset != AUTOMATIC:
        yield preset_named(preset)
    elif card is None:
        yield from presets()
    else:
        fitting = [one for one in presets() if least_memory(one) * GIB <= card.total]
        yield from reversed(fitting or presets()[:1])


def _sold_as(preset: Preset | None) -> int | None:
    return int(preset.card * GIB * _REPORTED) if preset else None


def card_of(gigabytes: float) -> Memory:
    """The memory that a card reports which is sold with `gigabytes`, with nothing else on it."""
    reported = int(gigabytes * GIB * _REPORTED)
    return Memory(reported, reported)


def _fit(count: Count, config: RunConfig, preset: str, found: Footprint, card: Memory | None) -> Fit:
    side = config.data.resolution or count.base.resolution
    total, free = (card.total, card.free) if card else (None, None)
    return Fit(count.base.family, side, config, preset, found, total, free, tuple(_warnings(found, card)))


def _warnings(found: Footprint, card: Memory | None) -> Iterator[str]:
    if card is None or required_memory(found.most) <= card.free:
        return
    yield (
        f"Only {card.free / GIB:.1f} of the card's {card.total / GIB:.1f} GiB are free, and about "
        f"{required_memory(found.most) / GIB:.1f} are needed: close what else uses the card (browsers and other "
        "programs that show video too)."
    )
    if sys.platform == "win32":
        yield (
            "NVIDIA's driver for Windows does not say that a card is full: it goes on in the computer's memory, many "
            "times slower. To be told instead: NVIDIA Control Panel, Manage 3D settings, CUDA - Sysmem Fallback "
            "Policy, Prefer No Sysmem Fallback."
        )


def _mend(count: Count, config: RunConfig, found: Footprint, room: int) -> str:
    said = (
        f"this training needs {required_memory(found.most) / GIB:.1f} GiB of a card, and there are {room / GIB:.1f}: "
    )
    steps = list(all_more_sparing(config))
    least = count.of(steps[-1][0]) if steps else found
    if required_memory(least.most) > room:
        smaller = "a smaller --resolution or --rank" if least.peak == least.most else "a smaller --resolution"
        even = "even with every saving on " if steps else ""
        return f"{said}{even}it needs {required_memory(least.most) / GIB:.1f}; take {smaller}, or a larger card"
    for changed, _ in steps:
        enough = least if changed == steps[-1][0] else count.of(changed)
        if required_memory(enough.most) <= room:
            break
    sentences = [sentence for one, sentence in steps[: [one for one, _ in steps].index(changed) + 1]]
    return f"{said}it fits with {', '.join(sentences)}"

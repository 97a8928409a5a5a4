"""Choosing a preset: does a training fit a card, with which preset, and what to change where it does not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..config.memory_savings import savings
from ..config.presets import AUTOMATIC, NONE, Preset, preset_named, presets
from ..config.run_config import RunConfig
from ..device import Memory
from ..errors import UserError
from ..models.card_presets import least_memory, required_memory
from .estimate import GIB, MemoryEstimate, MemoryEstimator

Resolve = Callable[["Preset | None"], RunConfig]
"""The settings that were asked for, over those of a preset (None: over the defaults)."""

_REPORTED = 0.95
"""A card that is sold as 8 GB reports about this share of 8 GiB."""


@dataclass(frozen=True)
class PresetFit:
    """What was counted for `config`. card: bytes of the card that it was counted for, if there is one or one was named;
    free: of them, at this moment; preset: the name of the one that `config` follows. warnings: for a person."""

    family: str
    side: int
    config: RunConfig
    preset: str
    estimate: MemoryEstimate
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
            "batch_size": self.config.training.batch_size,
            "pairs_at_once": self.config.training.batch_size,  # the former name, for scripts that read it
            "split_pair": self.config.training.split_pair,
            "gradient_checkpointing": self.config.training.gradient_checkpointing,
            "optimizer": self.config.optimization.optimizer,
            "preset": self.preset,
            **self.estimate.in_gib(),
            "needs_gib": round(required_memory(self.estimate.run_peak) / GIB, 3),
            "card_gib": None if self.card is None else round(self.card / GIB, 3),
            "fits": self.card is None or required_memory(self.estimate.run_peak) <= self.card,
            "warnings": self.warnings,
        }

    def summary(self) -> str:
        """For a person: a small table, and what follows from it."""
        estimate, training = self.estimate, self.config.training
        pairs = "one pair" if training.batch_size == 1 else f"{training.batch_size} pairs"
        rows = [
            ("weights of the base", estimate.weights),
            ("LoRA and its gradients", estimate.adapter),
            ("optimizer", estimate.optimizer),
            ("activations", estimate.activations),
            ("a step at its peak", estimate.step_peak),
            ("generating a sample picture", estimate.sampling),
            ("encoding pictures and captions", estimate.encoding),
        ]
        lines = [
            f"{self.family} at {self.side} px, rank {self.config.adapter.rank} on {self.config.adapter.targets}, "
            f"{pairs} at a time, preset {self.preset}; counted, in GiB:",
            *(f"  {name:32}{size / GIB:6.2f}" for name, size in rows),
        ]
        if estimate.host:
            lines.append(f"  {'in the computer instead':32}{estimate.host / GIB:6.2f}")
        needed = f"With what CUDA takes besides, a card needs {required_memory(estimate.run_peak) / GIB:.1f} GiB"
        lines.append(needed + (f"; this one has {self.card / GIB:.1f}." if self.card else "."))
        return "\n".join([*lines, *(f"! {warning}" for warning in self.warnings)])


def choose_preset(estimator: MemoryEstimator, resolve: Resolve, preset: str, card: Memory | None) -> PresetFit:
    """The settings that `resolve` gives with the preset called `preset`, and what they take of `card`.

    "automatic" takes the preset that fits; without a card, that of the smallest card that the training fits. Raises
    UserError, with what to change, where nothing fits.
    """
    tried = None
    for candidate in _candidates(preset, card):
        config = resolve(candidate)
        tried = estimator.estimate(config)
        room = card.total if card else _sold_as(candidate)
        if room is None or required_memory(tried.run_peak) <= room:
            return _fit(estimator, config, candidate.name if candidate else NONE, tried, card)
    assert tried is not None
    raise UserError(_advice(estimator, config, tried, room))


def _candidates(preset: str, card: Memory | None) -> Iterator[Preset | None]:
    """In the order in which they are tried: for a card the one that takes most of it, without one the most sparing."""
    if preset == NONE:
        yield None
    elif preset != AUTOMATIC:
        yield preset_named(preset)
    elif card is None:
        yield from presets()
    else:
        fitting = [preset for preset in presets() if least_memory(preset) * GIB <= card.total]
        yield from reversed(fitting or presets()[:1])


def _sold_as(preset: Preset | None) -> int | None:
    return int(preset.card * GIB * _REPORTED) if preset else None


def card_of(gigabytes: float) -> Memory:
    """The memory that a card reports which is sold with `gigabytes`, with nothing else on it."""
    reported = int(gigabytes * GIB * _REPORTED)
    return Memory(reported, reported)


def _fit(
    estimator: MemoryEstimator, config: RunConfig, preset: str, estimate: MemoryEstimate, card: Memory | None
) -> PresetFit:
    base = estimator.base
    side, warnings = config.data.resolution or base.resolution, tuple(_warnings(estimate, card))
    total, free = (card.total, card.free) if card else (None, None)
    return PresetFit(base.family, side, config, preset, estimate, total, free, warnings)


def _warnings(estimate: MemoryEstimate, card: Memory | None) -> Iterator[str]:
    if card is None or required_memory(estimate.run_peak) <= card.free:
        return
    yield (
        f"Only {card.free / GIB:.1f} of the card's {card.total / GIB:.1f} GiB are free, and about "
        f"{required_memory(estimate.run_peak) / GIB:.1f} are needed: close what else uses the card (browsers and other "
        "programs that show video too)."
    )
    if sys.platform == "win32":
        yield (
            "NVIDIA's driver for Windows does not say that a card is full: it goes on in the computer's memory, many "
            "times slower. To be told instead: NVIDIA Control Panel, Manage 3D settings, CUDA - Sysmem Fallback "
            "Policy, Prefer No Sysmem Fallback."
        )


def _advice(estimator: MemoryEstimator, config: RunConfig, estimate: MemoryEstimate, room: int) -> str:
    needed = required_memory(estimate.run_peak)
    shortage = f"this training needs {needed / GIB:.1f} GiB of a card, and there are {room / GIB:.1f}: "
    steps = list(savings(config))
    least = estimator.estimate(steps[-1][0]) if steps else estimate
    if required_memory(least.run_peak) > room:
        smaller = "a smaller --resolution or --rank" if least.step_peak == least.run_peak else "a smaller --resolution"
        even = "even with every saving on " if steps else ""
        return f"{shortage}{even}it needs {required_memory(least.run_peak) / GIB:.1f}; take {smaller}, or a larger card"
    for changed, _ in steps:
        enough = least if changed == steps[-1][0] else estimator.estimate(changed)
        if required_memory(enough.run_peak) <= room:
            break
    last = [config for config, _ in steps].index(changed)
    sentences = [sentence for _, sentence in steps[: last + 1]]
    return f"{shortage}it fits with {', '.join(sentences)}"

"""What to change in a training that does not fit its card, one step at a time, without changing what is learned.

First what costs least: time before exactness. Pairs a step, rank, targets, resolution and objective stay; so a run may
go on from its saved state with the settings of any of these steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .run_config import RunConfig

Change = tuple[dict[str, dict[str, Any]], str]
"""Settings by their part of the RunConfig, and a sentence that names them."""


def more_sparing(config: RunConfig) -> tuple[RunConfig, str] | None:
    """`config` with the next step taken, and a sentence that says which; None where every step is taken already."""
    for step in _STEPS:
        change = step(config)
        if change:
            settings, sentence = change
            parts = {part: getattr(config, part).model_copy(update=values) for part, values in settings.items()}
            return config.model_copy(update=parts), sentence
    return None


def all_more_sparing(config: RunConfig) -> Iterator[tuple[RunConfig, str]]:
    """Every further step, each on top of those before it."""
    while step := more_sparing(config):
        config = step[0]
        yield step


def _recompute(config: RunConfig) -> Change | None:
    if config.training.gradient_checkpointing != "off":
        return None
    sentence = "activations are computed again instead of kept (--gradient-checkpointing on)"
    return {"training": {"gradient_checkpointing": "on"}}, sentence


def _fewer_at_once(config: RunConfig) -> Change | None:
    pairs, times = config.training.batch_size, config.training.accumulation
    if pairs == 1:
        return None
    fewer = pairs // 2 if pairs % 2 == 0 else 1
    times *= pairs // fewer
    sentence = f"{_pairs(fewer)} at a time instead of {pairs} (--batch-size {fewer} --accumulation {times})"
    return {"training": {"batch_size": fewer, "accumulation": times}}, sentence


def _split(config: RunConfig) -> Change | None:
    if config.training.split_pair:
        return None
    return {"training": {"split_pair": True}}, "the two pictures of a pair one after the other (--split-pair)"


def _eight_bit(config: RunConfig) -> Change | None:
    if config.optimization.optimizer != "adamw":
        return None
    return {"optimization": {"optimizer": "adamw8bit"}}, "the optimizer's states in 8 bits (--optimizer adamw8bit)"


def _offload(config: RunConfig) -> Change | None:
    if config.training.gradient_checkpointing == "offload":
        return None
    sentence = "kept activations wait in the computer's memory (--gradient-checkpointing offload)"
    return {"training": {"gradient_checkpointing": "offload"}}, sentence


def _paged(config: RunConfig) -> Change | None:
    if config.optimization.optimizer == "paged_adamw8bit":
        return None
    sentence = "the optimizer's states wait in the computer's memory (--optimizer paged_adamw8bit)"
    return {"optimization": {"optimizer": "paged_adamw8bit"}}, sentence


def _fewer_bits(config: RunConfig) -> Change | None:
    steps = {"none": ("int8", "a byte"), "fp8": ("nf4", "half a byte"), "int8": ("nf4", "half a byte")}
    if config.training.quantize not in steps:
        return None
    how, size = steps[config.training.quantize]
    return {"training": {"quantize": how}}, f"the base's weights in {size} a number (--quantize {how})"


_STEPS: tuple[Callable[[RunConfig], Change | None], ...] = (
    _recompute,
    _fewer_at_once,
    _eight_bit,
    _offload,
    _split,
    _paged,
    _fewer_bits,
)


def _pairs(number: int) -> str:
    return "one pair" if number == 1 else f"{number} pairs"

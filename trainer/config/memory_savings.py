"""Memory savings: what to change in a training that does not fit its card, in steps that change nothing learned.

First what costs least: time before exactness. Pairs a step, rank, targets, resolution and objective stay; so a run may
go on from its saved state with the settings of any of these steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .optimizers import OPTIMIZERS, optimizer_row
from .run_config import RunConfig

Change = tuple[dict[str, dict[str, Any]], str]
"""Settings by their part of the RunConfig, and a sentence that names them."""


def next_saving(config: RunConfig) -> tuple[RunConfig, str] | None:
    """`config` with the next step taken, and a sentence that says which; None where every step is taken already."""
    for step in _STEPS:
        change = step(config)
        if change:
            settings, sentence = change
            parts = {part: getattr(config, part).model_copy(update=values) for part, values in settings.items()}
            return config.model_copy(update=parts), sentence
    return None


def savings(config: RunConfig) -> Iterator[tuple[RunConfig, str]]:
    """Every further step, each on top of those before it."""
    while step := next_saving(config):
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


def _smaller_states(config: RunConfig) -> Change | None:
    return _other_optimizer(config, paged=False)


def _offload(config: RunConfig) -> Change | None:
    if config.training.gradient_checkpointing == "offload":
        return None
    sentence = "kept activations wait in the computer's memory (--gradient-checkpointing offload)"
    return {"training": {"gradient_checkpointing": "offload"}}, sentence


def _paged_states(config: RunConfig) -> Change | None:
    return _other_optimizer(config, paged=True)


def _other_optimizer(config: RunConfig, paged: bool) -> Change | None:
    """One of the same update only: another would learn something else."""
    smaller = OPTIMIZERS.get(optimizer_row(config.optimization.optimizer).smaller)
    if smaller is None or smaller.paged != paged:
        return None
    sentence = f"the optimizer's states {smaller.summary} (--optimizer {smaller.name})"
    return {"optimization": {"optimizer": smaller.name}}, sentence


def _fewer_bits(config: RunConfig) -> Change | None:
    steps = {"none": ("int8", "a byte"), "fp8": ("nf4", "half a byte"), "int8": ("nf4", "half a byte")}
    if config.training.quantize not in steps:
        return None
    how, size = steps[config.training.quantize]
    return {"training": {"quantize": how}}, f"the base's weights in {size} a number (--quantize {how})"


_STEPS: tuple[Callable[[RunConfig], Change | None], ...] = (
    _recompute,
    _fewer_at_once,
    _smaller_states,
    _offload,
    _split,
    _paged_states,
    _fewer_bits,
)


def _pairs(number: int) -> str:
    return "one pair" if number == 1 else f"{number} pairs"

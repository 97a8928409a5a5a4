"""OOM recovery: what a run resumes with when the device is out of memory in the middle of a training.

Nothing is lost: an optimizer step happens wholly or not at all, and what was learned until then is saved. The run is
resumed with settings that need less memory and learn the same (memory_savings.py). A run that has begun keeps two
things besides: which pairs make up a batch, since their order follows from it; and its optimizer, whose states it has.
"""

from __future__ import annotations

import torch

from ..config.memory_savings import savings
from ..config.presets import presets
from ..config.run_config import RunConfig
from ..device import total_memory
from ..errors import DeviceOutOfMemory

_GIB = 2**30


def is_oom(error: BaseException) -> bool:
    """Whether `error` says that a device has no memory left."""
    # CUDA has a type for it, the other devices say it in the text of a RuntimeError.
    return isinstance(error, (torch.OutOfMemoryError, DeviceOutOfMemory)) or "out of memory" in str(error).lower()


def with_less_memory(config: RunConfig) -> tuple[RunConfig, str] | None:
    """The settings of a run that has begun with the next saving, and a sentence for it; None where none is left."""
    training = config.training
    at_once = training.pairs_at_once or training.batch_size
    for candidate, sentence in savings(config):
        changes = candidate.training.model_dump()
        # The batch stays, and goes through the base in parts.
        fewer = min(at_once, candidate.training.batch_size)
        changes |= {"batch_size": training.batch_size, "accumulation": training.accumulation}
        if fewer < at_once:
            changes["pairs_at_once"] = fewer
            pairs = "one pair" if fewer == 1 else f"{fewer} pairs"
            sentence = f"{pairs} at a time go through the base (--pairs-at-once {fewer})"
        if changes != training.model_dump():
            return config.model_copy(update={"training": training.model_copy(update=changes)}), sentence
    return None


def oom_message(config: RunConfig, device: torch.device, name: str, step: int | None) -> DeviceOutOfMemory:
    """The error for a person whose run called `name` ended so. step: of the newest checkpoint, None where none is."""
    saved = "" if step is None else f" What was learned in {step} steps is saved: after that, `mapo resume {name}`."
    less = with_less_memory(config)
    if less is None:
        mend = "and these settings are as sparing as any: close what else uses it, or train at a smaller resolution"
        return DeviceOutOfMemory(f"the memory of the device is full, {mend} or rank.{saved}")
    preset = _smaller_preset(device)
    named = f"with the preset {preset}, or " if preset else ""
    return DeviceOutOfMemory(
        f"the memory of the device is full: close what else uses it, or train {named}with less: {less[1]}.{saved} "
        "With --auto (auto = true in run.toml) a run does so by itself."
    )


def _smaller_preset(device: torch.device) -> str | None:
    """The name of the preset for the next smaller card than `device`."""
    memory = total_memory(device)
    fewer = [preset.name for preset in presets() if memory and preset.card + 1 < memory / _GIB]
    return fewer[-1] if fewer else None

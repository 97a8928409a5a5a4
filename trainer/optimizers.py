"""Which optimizer moves the LoRA, and with which learning rate at which step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from .config import OptimizerConfig


def build_optimizer(
    config: OptimizerConfig, parameters: Sequence[nn.Parameter]
) -> tuple[torch.optim.Optimizer, str | None]:
    """The optimizer that `config` asks for, and a sentence where something else had to be taken."""
    settings = {
        "lr": config.learning_rate,
        "betas": (config.beta1, config.beta2),
        "weight_decay": config.weight_decay,
    }
    device = parameters[0].device
    note = None
    if config.optimizer == "adamw8bit" or (config.optimizer == "auto" and device.type != "cpu"):
        problem = _why_no_8bit(device)
        if problem is None:
            from bitsandbytes.optim import AdamW8bit

            return AdamW8bit(parameters, **settings), None
        note = f"8-bit AdamW cannot be had ({problem}); using torch's AdamW, whose states need four times the memory"
    # One kernel for all tensors instead of a dozen for each of some seven hundred.
    fused = device.type in ("cpu", "cuda")
    return torch.optim.AdamW(parameters, **settings, fused=fused), note


def lr_factor(config: OptimizerConfig, step: int, steps: int) -> float:
    """Share of the peak learning rate that step number `step` (from 0) of `steps` is taken with, in (0, 1]."""
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return 1.0
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return 1 - done if config.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2


def _why_no_8bit(device: torch.device) -> str | None:
    """None where bitsandbytes works on `device`, else the reason; proven by a step, since importing proves nothing."""
    if device.type not in ("cpu", "cuda", "xpu"):
        return f"bitsandbytes has no optimizer for {device.type}"
    try:
        from bitsandbytes.optim import AdamW8bit

        probe = nn.Parameter(torch.zeros(4096, device=device))
        probe.grad = torch.ones_like(probe)
        AdamW8bit([probe]).step()
    except Exception as error:
        return f"bitsandbytes: {type(error).__name__}: {error}".splitlines()[0]
    return None

"""torch.compile and TF32: the speed-ups beside those that torch takes by itself (attention, fused AdamW).

None of them changes what is computed beyond the rounding of its arithmetic, and none changes a module's path.
"""

from __future__ import annotations

import torch
from torch import nn

from ...config.run_config import TrainingConfig
from ...device import capabilities

_REPEATED = "BasicTransformerBlock"
"""diffusers' block that most of a UNet's work is in. Its code is compiled once for each width and once more, for any
size, when pictures of a second size come. The residual blocks differ too much: each kind and size would be compiled
anew, for no measurable gain. Compiled whole, a UNet takes minutes before the first step, and checkpointing, which wraps
the blocks, would have to be inside the graph."""

_MOST_GRAPHS = 32
"""How often the block's code may be compiled: two widths, one size or any, training or measuring, with the LoRA or
without. torch's own limit of 8 would leave what comes after it uncompiled, in silence."""

_AUTO: dict[str, tuple[str, ...]] = {"compile": (), "tf32": ("cuda",)}
"""The backends (see DeviceCapabilities) on which "auto" means on: those where it was measured to pay, see
docs/benchmarks.md, and TF32 where torch lets convolutions compute in it anyway."""

_PASSES_THAT_PAY = 1000
_WEIGHTS_THAT_PAY = 40_000_000
"""From how many forward passes of how large a UNet "auto" compiles on a CPU. A UNet of 92 million weights at 256 px
saved 0.6 s a pass there (docs/benchmarks.md), ten minutes in so many; the compiler takes some, however small the UNet
is."""


def apply(unet: nn.Module, config: TrainingConfig, device: torch.device) -> str | None:
    """Switch on for `unet` what `config` asks for. Returns a sentence where something is not supported.

    Call it after a LoRA was attached, which replaces layers.
    """
    backend = capabilities(device).backend
    outlasts = device.type == "cpu" and _outlasts_the_compiler(unet, config)

    def enabled(name: str) -> bool:
        setting = getattr(config, name)
        return setting == "on" or (setting == "auto" and (backend in _AUTO[name] or (name == "compile" and outlasts)))

    if enabled("tf32"):
        torch.set_float32_matmul_precision("high")
    fallback = _compile(unet, device) if enabled("compile") else None
    return fallback if config.compile == "on" else None  # who asked for nothing misses nothing


def _outlasts_the_compiler(unet: nn.Module, config: TrainingConfig) -> bool:
    passes = config.steps * config.accumulation
    return passes >= _PASSES_THAT_PAY and sum(one.numel() for one in unet.parameters()) >= _WEIGHTS_THAT_PAY


def _compile(unet: nn.Module, device: torch.device) -> str | None:
    problem = _why_not_compiled(device)
    if problem is not None:
        return f"the base is not compiled ({problem}); training goes on without, slower"
    # A block that fails to compile after all runs as it is, with a warning of torch's own.
    torch._dynamo.config.suppress_errors = True
    torch._dynamo.config.recompile_limit = max(_MOST_GRAPHS, torch._dynamo.config.recompile_limit)
    for module in unet.modules():
        if type(module).__name__ == _REPEATED:
            module.compile()  # in place: paths of modules stay as they are
    return None


def _why_not_compiled(device: torch.device) -> str | None:
    """None where torch.compile works on `device`; proven by compiling, since finding a compiler proves nothing."""
    if not capabilities(device).compiles:
        return f"torch finds no compiler for {device.type}"
    try:
        probe = torch.ones(64, device=device, requires_grad=True)
        torch.compile(_probe, dynamic=False)(probe).backward()
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def _probe(numbers: torch.Tensor) -> torch.Tensor:
    return (numbers.sin() * numbers).sum()

"""What of a UNet's activations is kept for the backward pass, and where?"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def apply(unet: nn.Module, how: str, device: torch.device) -> None:
    """Let `unet` keep as `how` says (TrainingConfig.gradient_checkpointing); gradients stay exactly the same.

    on: of each residual and transformer block only the inputs, from which the block is computed again. offload: the
    same, and they wait in host memory, page-locked where `device` can copy from there beside computing.
    """
    if how == "off" or (how == "auto" and device.type == "cpu"):
        return
    unet.enable_gradient_checkpointing(_recomputed)
    if how == "offload":
        _keep_on_host(unet, device)


def _recomputed(module: Any, *inputs: Any) -> Any:
    return checkpoint(module, *inputs, use_reentrant=False)


def _keep_on_host(unet: nn.Module, device: torch.device) -> None:
    forward = unet.forward

    def kept(*args: Any, **kwargs: Any) -> Any:
        with torch.autograd.graph.save_on_cpu(pin_memory=device.type == "cuda" and torch.cuda.is_available()):
            return forward(*args, **kwargs)

    unet.forward = kept

"""What of a UNet's activations is kept for the backward pass, and where?"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .low_memory_blocks import use_low_memory_blocks

_WORTH_MOVING = 2**18
"""Numbers; below, a copy costs more time than it saves memory."""


def apply(unet: nn.Module, how: str, device: torch.device) -> None:
    """Let `unet` keep as `how` says (TrainingConfig.gradient_checkpointing); gradients stay the same.

    on: of each residual and transformer block only the inputs, from which the block is computed again, and leaner than
    diffusers has it (lean_blocks.py). offload: the same, and the inputs wait in host memory. Call it before a LoRA is
    attached.
    """
    if how == "off" or (how == "auto" and device.type == "cpu"):
        return
    use_low_memory_blocks(unet)
    unet.enable_gradient_checkpointing(_recomputed)
    if how == "offload":
        _keep_on_host(unet, device)


def _recomputed(module: Any, *inputs: Any) -> Any:
    return checkpoint(module, *inputs, use_reentrant=False)


def _keep_on_host(unet: nn.Module, device: torch.device) -> None:
    host, forward = _Host(device), unet.forward

    def kept(*args: Any, **kwargs: Any) -> Any:
        with torch.autograd.graph.saved_tensors_hooks(host.pack, host.unpack):
            return forward(*args, **kwargs)

    unet.forward = kept


class _Host:
    """Takes what autograd keeps to host memory and brings it back, one tensor ahead of the backward pass.

    Copies run on a stream of their own where the device has one; elsewhere they are plain copies.
    """

    def __init__(self, device: torch.device) -> None:
        self._overlaps = device.type == "cuda" and torch.cuda.is_available()
        self._beside = torch.cuda.Stream(device) if self._overlaps else None
        self._newest: weakref.ref[_Parked] | None = None

    def pack(self, tensor: Tensor) -> Tensor | _Parked:
        if tensor.numel() < _WORTH_MOVING or isinstance(tensor if tensor._base is None else tensor._base, nn.Parameter):
            return tensor
        parked = _Parked(tensor, self._beside, self._newest)
        self._newest = weakref.ref(parked)
        return parked

    def unpack(self, kept: Tensor | _Parked) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        tensor = kept.back()
        before = kept.before and kept.before()
        if before is not None:
            before.fetch()  # the backward pass wants them in the opposite order
        return tensor


class _Parked:
    def __init__(self, tensor: Tensor, beside: Any, before: weakref.ref[_Parked] | None) -> None:
        self.before = before
        self._device, self._beside = tensor.device, beside
        self._there: Tensor | None = None
        if beside is None:
            # clone: on a CPU `to` would give the tensor itself, which in-place operations may still change
            self._host = tensor.to("cpu") if tensor.device.type != "cpu" else tensor.clone()
            return
        self._host = torch.empty_like(tensor, device="cpu", pin_memory=True)
        beside.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(beside):
            self._host.copy_(tensor, non_blocking=True)
        tensor.record_stream(beside)  # its memory is given to no other before the copy is done

    def fetch(self) -> None:
        """Begin to bring it back."""
        if self._beside is None or self._there is not None:
            return
        with torch.cuda.stream(self._beside):
            self._there = self._host.to(self._device, non_blocking=True)

    def back(self) -> Tensor:
        """The tensor on its device again, with the numbers it had."""
        if self._beside is None:
            return self._host.to(self._device)
        self.fetch()
        now = torch.cuda.current_stream(self._device)
        now.wait_stream(self._beside)
        there, self._there = self._there, None
        there.record_stream(now)
        return there

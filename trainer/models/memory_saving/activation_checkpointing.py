"""Activation checkpointing and CPU offloading for the UNet: what is kept for the backward pass, and where.

Checkpointing is torch's. Offloading is not torch's save_on_cpu, which copies on the stream that computes and moves
weights and small tensors too, nor torchtune's OffloadActivations, which overlaps copies with computing as is done here,
but would be a dependency for this alone.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .low_memory_blocks import use_low_memory_blocks

_MIN_NUMBERS = 2**18
"""Numbers; below, a copy costs more time than it saves memory."""


def apply(unet: nn.Module, how: str, device: torch.device) -> None:
    """Let `unet` keep as `how` says (TrainingConfig.gradient_checkpointing); gradients stay the same.

    on: of each residual and transformer block only the inputs, from which the block is computed again, and leaner than
    diffusers has it (low_memory_blocks.py). offload: the same, and the inputs wait in host memory. Call it before a
    LoRA is attached.
    """
    if how == "off" or (how == "auto" and device.type == "cpu"):
        return
    use_low_memory_blocks(unet)
    unet.enable_gradient_checkpointing(_recomputed)
    if how == "offload":
        _offload(unet, device)


def _recomputed(module: Any, *inputs: Any) -> Any:
    return checkpoint(module, *inputs, use_reentrant=False)


def _offload(unet: nn.Module, device: torch.device) -> None:
    offload, forward = CpuOffload(device), unet.forward

    def offloaded(*args: Any, **kwargs: Any) -> Any:
        with torch.autograd.graph.saved_tensors_hooks(offload.pack, offload.unpack):
            return forward(*args, **kwargs)

    unet.forward = offloaded


class CpuOffload:
    """Moves what autograd keeps to host memory and brings it back, one tensor ahead of the backward pass.

    Copies run on a stream of their own where the device has one; elsewhere they are plain copies.
    """

    def __init__(self, device: torch.device) -> None:
        self._overlaps = device.type == "cuda" and torch.cuda.is_available()
        self._stream = torch.cuda.Stream(device) if self._overlaps else None
        self._newest: weakref.ref[OffloadedTensor] | None = None

    def pack(self, tensor: Tensor) -> Tensor | OffloadedTensor:
        if tensor.numel() < _MIN_NUMBERS or isinstance(tensor if tensor._base is None else tensor._base, nn.Parameter):
            return tensor
        offloaded = OffloadedTensor(tensor, self._stream, self._newest)
        self._newest = weakref.ref(offloaded)
        return offloaded

    def unpack(self, kept: Tensor | OffloadedTensor) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        tensor = kept.restore()
        before = kept.before and kept.before()
        if before is not None:
            before.fetch()  # the backward pass wants them in the opposite order
        return tensor


class OffloadedTensor:
    """A tensor that waits in host memory. `before`: the one that was offloaded just before it."""

    def __init__(self, tensor: Tensor, stream: Any, before: weakref.ref[OffloadedTensor] | None) -> None:
        self.before = before
        self._device, self._stream = tensor.device, stream
        self._fetched: Tensor | None = None
        if stream is None:
            # clone: on a CPU `to` would give the tensor itself, which in-place operations may still change
            self._host = tensor.to("cpu") if tensor.device.type != "cpu" else tensor.clone()
            return
        self._host = torch.empty_like(tensor, device="cpu", pin_memory=True)
        stream.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(stream):
            self._host.copy_(tensor, non_blocking=True)
        tensor.record_stream(stream)  # its memory is given to no other before the copy is done

    def fetch(self) -> None:
        """Begin to bring it back."""
        if self._stream is None or self._fetched is not None:
            return
        with torch.cuda.stream(self._stream):
            self._fetched = self._host.to(self._device, non_blocking=True)

    def restore(self) -> Tensor:
        """The tensor on its device again, with the numbers it had."""
        if self._stream is None:
            return self._host.to(self._device)
        self.fetch()
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        fetched, self._fetched = self._fetched, None
        fetched.record_stream(current)
        return fetched

"""Quantization: which layers of a frozen UNet are stored in fewer bits, and how its weights get there.

First it is a quantized, empty model, whose storages hold no numbers yet; then weights are loaded one at a time, so that
no more than one is ever in memory unpacked. What counts memory takes the empty model alone.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ...device import capabilities, total_memory
from ...errors import UserError
from ..card_presets import preset_for
from .quantized_layers import FP8, INT8, NF4, QuantizedConv2d, QuantizedLinear, WeightFormat

Quantize = Literal["none", "int8", "nf4", "fp8"]

_CLASSES = {nn.Linear: QuantizedLinear, nn.Conv2d: QuantizedConv2d}
_WHOLE = ("conv_in", "conv_out", "time_embedding", "add_embedding")
"""Stay in the compute dtype: few weights, which everything goes through."""
_A_BYTE = ("proj_in", "proj_out", "time_emb_proj")
"""Linears that nf4 stores as int8: few weights again, and a quarter of its error (docs/benchmarks.md)."""


def check(how: Quantize, device: torch.device) -> None:
    """Raises UserError, with what is supported instead, where `device` cannot store weights as `how` says."""
    device_can = capabilities(device)
    if how == "none" or how in device_can.storage:
        return
    needs = ", or bitsandbytes is not installed there (pip install bitsandbytes)" if how == "nf4" else ""
    instead = " or ".join(f"--quantize {stored}" for stored in (*device_can.storage, "none"))
    raise UserError(f"--quantize {how} is not supported on {device_can.name}{needs}: use {instead}")


def quantize_mode_for_inference(device: torch.device) -> Quantize:
    """How a base is stored that only generates images: as the preset for the device's card trains on it."""
    preset = preset_for(total_memory(device))
    how = preset.settings.get("training", {}).get("quantize", "none") if preset else "none"
    return how if how in ("none", *capabilities(device).storage) else "int8"


def to_quantized_empty(unet: nn.Module, how: Quantize, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """`unet`, made on the meta device, with storage on `device` for all its weights: changed in place and returned.

    int8 and fp8: every linear and convolution so. nf4: the linears of the transformers' blocks; the rest int8, which at
    a byte a number is four times as exact for convolutions as fp8. What is not quantized, biases and norms among it, is
    in `dtype`, in which all of it computes. Frozen, in evaluation mode. On the meta device or under FakeTensorMode the
    storages have no numbers, but the bytes of the real ones.
    """
    if how == "nf4":
        import bitsandbytes  # noqa: F401 - makes the operators that unpack known to torch
    for name, module in unet.named_modules():
        packing = _weight_format(name, module, how)
        if packing is not None:
            module.__class__ = _CLASSES[type(module)]  # in its place, with its name, hooks and settings
            module.allocate(packing, dtype, device)
        for key, whole in module.named_parameters(recurse=False):
            if packing is None or key == "bias":
                there = torch.empty(whole.shape, dtype=dtype, device=device)
                setattr(module, key, nn.Parameter(there, requires_grad=False))
        for key, buffer in module.named_buffers(recurse=False):
            setattr(module, key, buffer.to(device))
    return unet.eval()


@torch.no_grad()
def load_weight(unet: nn.Module, name: str, weight: Tensor) -> None:
    """Put `weight`, in any dtype and on any device, where it belongs in what `to_quantized_empty` made.

    name: as in the whole model.
    """
    path, _, key = name.rpartition(".")
    module = unet.get_submodule(path)
    if key == "weight" and getattr(module, "packing", None) is not None:
        module.load_weight(weight)
    else:
        getattr(module, key).copy_(weight)


def _weight_format(name: str, module: nn.Module, how: Quantize) -> WeightFormat | None:
    if how == "none" or type(module) not in _CLASSES or name.startswith(_WHOLE):
        return None
    if how == "fp8":
        return FP8
    fine = how == "nf4" and isinstance(module, nn.Linear) and not name.endswith(_A_BYTE)
    return NF4 if fine else INT8

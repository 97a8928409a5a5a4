"""How does a linear layer with a LoRA compute: result + scale * B(A(x)), with as little around it as can be?

PEFT's own forward makes the input float32, from which autocast makes a half-precision copy again: two copies of every
input, one of which is kept for the backward pass, and a product and a sum of the output's size besides. A UNet has
hundreds of such layers. Here the input is taken as it is, and scale and sum are part of B's matrix product.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor
from torch.nn import functional as F


class LeanLinear(Linear):
    """PEFT's layer with another forward; made of one by `lean`, whose parts and names it keeps.

    x: (..., in). Returns (..., out) in the dtype that the base layer answers in.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        names = self.active_adapters
        plain = not args and not kwargs and not self.merged and len(names) == 1 and names[0] in self.lora_A
        # Without autocast, layers of several dtypes cannot meet in one product.
        mixed = x.dtype != self.lora_A[names[0]].weight.dtype and not torch.is_autocast_enabled(x.device.type)
        if self.disable_adapters or not plain or mixed:
            return super().forward(x, *args, **kwargs)
        name, rows = names[0], x.flatten(0, -2)
        result = self.base_layer(rows)
        inner = F.linear(self.lora_dropout[name](rows), self.lora_A[name].weight)
        outer = self.lora_B[name].weight.t()
        # In place, for nothing needs what a frozen layer answers but its sum; autocast leaves such products alone.
        result.addmm_(inner.to(result.dtype), outer.to(result.dtype), alpha=self.scaling[name])
        return result.unflatten(0, x.shape[:-1])


def lean(layer: Any) -> None:
    """Let a layer of PEFT's compute so, if it is a linear one without a variant; others are left as they are."""
    if type(layer) is Linear and not layer.lora_variant:
        layer.__class__ = LeanLinear

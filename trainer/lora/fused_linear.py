"""Fused LoRA layer: result + scale * B(A(x)) with as few copies of inputs and outputs as possible.

PEFT's own forward makes the input float32, from which autocast makes a half-precision copy again: two copies of every
input, one of which is kept for the backward pass, and a product and a sum of the output's size besides. A UNet has
hundreds of such layers. Here all is computed in what the base layer answers in, as autocast would have it in the end,
and scale and sum are part of B's matrix product.
"""

from __future__ import annotations

from typing import Any

from peft.tuners.lora import Linear
from torch import Tensor
from torch.nn import functional as F


class FusedLoraLinear(Linear):
    """PEFT's layer with another forward; made of one by `fuse`, whose parts and names it keeps.

    x: (..., in). Returns (..., out) in the dtype that the base layer answers in.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        names = self.active_adapters
        plain = not args and not kwargs and not self.merged and len(names) == 1 and names[0] in self.lora_A
        if self.disable_adapters or not plain:
            return super().forward(x, *args, **kwargs)
        name, rows = names[0], x.flatten(0, -2)
        result = self.base_layer(rows)
        first, second = (part[name].weight.to(result.dtype) for part in (self.lora_A, self.lora_B))
        inner = F.linear(self.lora_dropout[name](rows.to(result.dtype)), first)
        # In place, for nothing needs what a frozen layer answers but its sum.
        result.addmm_(inner, second.t(), alpha=self.scaling[name])
        return result.unflatten(0, x.shape[:-1])


def fuse(layer: Any) -> None:
    """Let a layer of PEFT's compute so, if it is a linear one without a variant; others are left as they are."""
    if type(layer) is Linear and not layer.lora_variant:
        layer.__class__ = FusedLoraLinear

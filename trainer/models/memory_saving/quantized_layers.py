"""Quantized layers: frozen linears and convolutions whose weight is stored in a byte or half a byte a number.

The weight is unpacked when it is used and dropped after, in the forward and once more in the backward: autograd keeps
the packed weight only. Outputs are as exact as the stored weight; inputs are never rounded.

No library has them: bitsandbytes (Linear4bit) and torchao train over linear layers only, not over convolutions, and
diffusers' layerwise casting leaves the unpacked weight in the autograd graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, ...]


class WeightFormat(Protocol):
    """A way to store a weight: named tensors, the first of which is called "weight"."""

    def parts(self, shape: Shape) -> dict[str, tuple[Shape, torch.dtype]]:
        """Shapes and dtypes of what a weight of `shape` is stored as."""

    def pack(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The parts of a float32 weight, on its device."""

    def unpack(self, parts: Sequence[Tensor], shape: Shape, dtype: torch.dtype) -> Tensor:
        """The weight of `shape` in `dtype`, as near as its parts know it."""


@dataclass(frozen=True)
class Rowwise:
    """A byte for each number and a float32 scale for each output row (vector-wise, as LLM.int8, arXiv 2208.07339).

    number: int8, or float8_e4m3fn, whose steps grow with the number. The scale puts a row's largest at `top`: without
    it most weights of a UNet would lie where float8's steps no longer shrink.
    """

    number: torch.dtype
    top: float

    def parts(self, shape: Shape) -> dict[str, tuple[Shape, torch.dtype]]:
        return {"weight": (shape, self.number), "scale": ((shape[0],) + (1,) * (len(shape) - 1), torch.float32)}

    def pack(self, weight: Tensor) -> tuple[Tensor, ...]:
        row = tuple(range(1, weight.ndim))
        # Not abs(): it would be one copy of the weight more, and loading is to need few.
        scale = torch.maximum(weight.amax(row, keepdim=True), -weight.amin(row, keepdim=True)) / self.top
        steps = weight / scale.where(scale > 0, 1)
        return (steps if self.number.is_floating_point else steps.round_()).to(self.number), scale

    def unpack(self, parts: Sequence[Tensor], shape: Shape, dtype: torch.dtype) -> Tensor:
        steps, scale = parts
        return steps.to(dtype).mul_(scale)  # each step is exact in bfloat16, so only the product is rounded


@dataclass(frozen=True)
class BlockwiseNF4:
    """Half a byte for each number: 16 steps, dense where normally distributed weights are, scaled in blocks of 64; the
    blocks' scales take a byte each (double quantization). QLoRA, arXiv 2305.14314, in bitsandbytes' arithmetic."""

    def parts(self, shape: Shape) -> dict[str, tuple[Shape, torch.dtype]]:
        numbers = prod(shape)
        blocks = -(-numbers // _BLOCK)
        return {
            "weight": (((numbers + 1) // 2, 1), torch.uint8),
            "absmax": ((blocks,), torch.uint8),
            "nested_absmax": ((-(-blocks // _BLOCKS_TOGETHER),), torch.float32),
            "nested_map": ((256,), torch.float32),
            "offset": ((), torch.float32),
        }

    def pack(self, weight: Tensor) -> tuple[Tensor, ...]:
        from bitsandbytes.functional import quantize_4bit

        packed, state = quantize_4bit(weight, blocksize=_BLOCK, compress_statistics=True, quant_type="nf4")
        return packed, state.absmax, state.state2.absmax, state.state2.code, state.offset

    def unpack(self, parts: Sequence[Tensor], shape: Shape, dtype: torch.dtype) -> Tensor:
        # The operators, and not the functions around them: these also run on tensors without numbers.
        packed, absmax, nested_absmax, nested_map, offset = parts
        operators = torch.ops.bitsandbytes
        scales = operators.dequantize_blockwise(absmax, nested_absmax, nested_map, _BLOCKS_TOGETHER, torch.float32)
        return operators.dequantize_4bit(packed, scales + offset, _BLOCK, "nf4", shape, dtype)


_BLOCK = 64
_BLOCKS_TOGETHER = 256

INT8 = Rowwise(torch.int8, 127.0)
FP8 = Rowwise(torch.float8_e4m3fn, 448.0)
NF4 = BlockwiseNF4()


class _Quantized(nn.Module):
    """An ordinary layer until `allocate` is called: PEFT makes LoRA's own convolutions of the class of the base's."""

    packing: WeightFormat | None = None
    shape: Shape
    """The weight's own."""
    dtype: torch.dtype
    """In which it computes."""
    _names: tuple[str, ...]

    def allocate(self, packing: WeightFormat, dtype: torch.dtype, device: torch.device) -> None:
        """Put storage for a packed weight in the weight's place; `load_weight` puts numbers into it."""
        self.packing, self.shape, self.dtype = packing, tuple(self.weight.shape), dtype
        parts = packing.parts(self.shape)
        self._names = tuple(parts)
        for name, (shape, kind) in parts.items():
            setattr(self, name, nn.Parameter(torch.empty(shape, dtype=kind, device=device), requires_grad=False))

    @torch.no_grad()
    def load_weight(self, weight: Tensor) -> None:
        """weight: of the layer's own shape, in any dtype, on any device."""
        parts = self._parts()
        packed = self.packing.pack(weight.to(parts[0].device).float())
        for part, new in zip(parts, packed, strict=True):
            if part.shape != new.shape or part.dtype != new.dtype:
                raise ValueError(f"packed as {new.dtype} {tuple(new.shape)}, not {part.dtype} {tuple(part.shape)}")
            part.copy_(new)

    def _parts(self) -> list[Tensor]:
        return [getattr(self, name) for name in self._names]


class QuantizedLinear(_Quantized, nn.Linear):
    """nn.Linear with a packed weight. (..., in) -> (..., out) in `dtype`."""

    def forward(self, x: Tensor) -> Tensor:
        if self.packing is None:
            return super().forward(x)
        x, parts = x.to(self.dtype), self._parts()
        if not x.requires_grad:
            return F.linear(x, self.packing.unpack(parts, self.shape, self.dtype), self.bias)
        return _Linear.apply(x, self.bias, self.packing, self.shape, *parts)


class QuantizedConv2d(_Quantized, nn.Conv2d):
    """nn.Conv2d with a packed weight. (n, in, h, w) -> (n, out, h', w') in `dtype`."""

    def forward(self, x: Tensor) -> Tensor:
        if self.packing is None:
            return super().forward(x)
        x, parts = x.to(self.dtype), self._parts()
        how = (self.stride, self.padding, self.dilation, self.groups)
        if not x.requires_grad:
            return F.conv2d(x, self.packing.unpack(parts, self.shape, self.dtype), self.bias, *how)
        return _Conv2d.apply(x, self.bias, how, self.packing, self.shape, *parts)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor | None, packing: WeightFormat, shape: Shape, *parts: Tensor
    ) -> Tensor:
        ctx.save_for_backward(*parts)
        ctx.packing, ctx.shape = packing, shape
        return F.linear(x, packing.unpack(parts, shape, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        parts = ctx.saved_tensors
        weight = ctx.packing.unpack(parts, ctx.shape, gradient.dtype)
        return gradient @ weight, None, None, None, *(None for _ in parts)


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor | None, how: Any, packing: WeightFormat, shape: Shape, *parts: Tensor
    ) -> Tensor:
        ctx.save_for_backward(*parts)
        ctx.packing, ctx.shape, ctx.how, ctx.x_shape = packing, shape, how, x.shape
        return F.conv2d(x, packing.unpack(parts, shape, x.dtype), bias, *how)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        parts = ctx.saved_tensors
        weight = ctx.packing.unpack(parts, ctx.shape, gradient.dtype)
        x_gradient = nn.grad.conv2d_input(ctx.x_shape, weight, gradient, *ctx.how)
        return x_gradient, None, None, None, None, *(None for _ in parts)

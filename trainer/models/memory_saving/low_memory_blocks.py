"""Low-memory blocks: norms, convolutions and GEGLU of a frozen UNet or VAE that keep less for the backward pass.

What autograd would keep for the weights' own gradients, which nobody asks for, and autocast's float32 copies of what
goes through a norm are most of a block's activations. Here a norm keeps its input as it came and makes its float32
numbers a piece at a time; a frozen convolution keeps nothing; a gated unit keeps its input alone. The numbers are
rounded where they were, so forward and gradient stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional as F

_PIECE = 2 * 2**20
"""Numbers that are in float32 at once: 8 MiB, enough to keep a card busy."""


def use_low_memory_blocks(model: nn.Module) -> None:
    """Let the blocks of `model`, a UNet2DConditionModel or AutoencoderKL whose norms and convolutions stay frozen,
    compute so."""
    for module in model.modules():
        if isinstance(module, ResnetBlock2D) and _is_plain(module):
            module.forward = MethodType(_resnet, module)
        elif isinstance(module, Upsample2D) and _doubles(module):
            module.forward = MethodType(_upsample, module)
        elif isinstance(module, GEGLU):
            module.forward = MethodType(_gated, module)
        elif isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            module.forward = MethodType(_norm, module)
    for module in model.modules():
        if isinstance(getattr(module, "conv_act", None), nn.SiLU):
            module.conv_norm_out.forward = MethodType(_norm_silu, module.conv_norm_out)
            module.conv_act = nn.Identity()


def _is_plain(block: ResnetBlock2D) -> bool:
    return (
        block.upsample is None
        and block.downsample is None
        and block.time_embedding_norm == "default"
        and not block.skip_time_act
        and isinstance(block.nonlinearity, nn.SiLU)
    )


def _doubles(module: Upsample2D) -> bool:
    return module.interpolate and module.norm is None and not module.use_conv_transpose and module.use_conv


def _resnet(self: ResnetBlock2D, hidden: Tensor, temb: Tensor | None) -> Tensor:
    """ResnetBlock2D.forward."""
    inside = _conv(self.conv1, _norm_silu(self.norm1, hidden))
    if self.time_emb_proj is not None:
        inside = inside + self.time_emb_proj(self.nonlinearity(temb))[:, :, None, None]
    inside = _conv(self.conv2, self.dropout(_norm_silu(self.norm2, inside)))
    beside = hidden if self.conv_shortcut is None else _conv(self.conv_shortcut, hidden)
    # In place where it can be: nobody else needs what the second convolution gave.
    both = inside.add_(beside) if inside.dtype == beside.dtype else inside + beside
    return both if self.output_scale_factor == 1 else both / self.output_scale_factor


def _upsample(self: Upsample2D, hidden: Tensor, output_size: Any = None, *_: Any, **__: Any) -> Tensor:
    """Upsample2D.forward. Nearest neighbours need no float32, which autocast would interpolate in."""
    rows, columns = hidden.shape[-2:]
    if output_size is not None and tuple(output_size) != (2 * rows, 2 * columns):
        larger = F.interpolate(hidden, size=output_size, mode="nearest")
    else:
        larger = hidden[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2).reshape(*hidden.shape[:2], 2 * rows, -1)
    return _conv(self.conv if self.name == "conv" else self.Conv2d_0, larger)


def _gated(self: GEGLU, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
    """GEGLU.forward."""
    both = self.proj(hidden)
    if torch.compiler.is_compiling():
        value, gate = both.chunk(2, dim=-1)
        return value * F.gelu(gate)
    return _Gated.apply(both)


def _norm(self: nn.GroupNorm | nn.LayerNorm, hidden: Tensor) -> Tensor:
    """GroupNorm.forward and LayerNorm.forward."""
    return _normed(self, hidden, silu=False)


def _norm_silu(norm: nn.GroupNorm, hidden: Tensor) -> Tensor:
    return _normed(norm, hidden, silu=True)


def _normed(norm: nn.GroupNorm | nn.LayerNorm, hidden: Tensor, silu: bool) -> Tensor:
    groups = norm.num_groups if isinstance(norm, nn.GroupNorm) else None
    if torch.compiler.is_compiling():  # which fuses all of it by itself
        whole, weight, bias = hidden.float(), norm.weight.float(), norm.bias.float()
        if groups is None:
            normed = F.layer_norm(whole, norm.normalized_shape, weight, bias, norm.eps)
        else:
            normed = F.group_norm(whole, groups, weight, bias, norm.eps)
        return (F.silu(normed) if silu else normed).to(hidden.dtype)
    if groups is None:
        return _LayerNorm.apply(hidden, norm.weight, norm.bias, norm.eps)
    return _GroupNorm.apply(hidden, norm.weight, norm.bias, groups, norm.eps, silu)


def _conv(module: nn.Module, hidden: Tensor) -> Tensor:
    if type(module) is not nn.Conv2d or module.weight.requires_grad or torch.compiler.is_compiling():
        return module(hidden)  # quantized ones know themselves what to keep
    return _Conv.apply(
        hidden, module.weight, module.bias, module.stride, module.padding, module.dilation, module.groups
    )


class _GroupNorm(torch.autograd.Function):
    """silu(group_norm(x)), or without the silu: float32 inside, a few groups at a time; out as it came in."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.how = groups, eps, silu
        out = torch.empty_like(x)
        for part in _channels(x, groups):
            normed = _group_normed(x, weight, bias, part, groups, eps)[1]
            out[:, part] = F.silu(normed, inplace=True) if silu else normed
        return out

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        groups, eps, silu = ctx.how
        out = torch.empty_like(x)
        for part in _channels(x, groups):
            whole, normed, mean, deviation = _group_normed(x, weight, bias, part, groups, eps)
            upper = _whole(slope[:, part])
            if silu:
                upper = torch.ops.aten.silu_backward(upper, normed)
            del normed
            n, channels, area = whole.shape[0], whole.shape[1], whole[0, 0].numel()
            inside = channels * groups // x.shape[1]
            out[:, part] = torch.ops.aten.native_group_norm_backward(
                upper, whole, mean, deviation, weight[part].float(), n, channels, area, inside, [True, False, False]
            )[0]
        return out, None, None, None, None, None


def _group_normed(
    x: Tensor, weight: Tensor, bias: Tensor, part: slice, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(x, normed x, means, reciprocal deviations) of a part of the channels, float32."""
    whole = _whole(x[:, part])
    n, channels, area = whole.shape[0], whole.shape[1], whole[0, 0].numel()
    inside = channels * groups // x.shape[1]
    affine = weight[part].float(), bias[part].float()
    return whole, *torch.native_group_norm(whole, *affine, n, channels, area, inside, eps)


def _channels(x: Tensor, groups: int) -> Iterator[slice]:
    """The channels of whole groups, as many at a time as make a piece."""
    width = x.shape[1] // groups
    at_once = width * max(1, min(groups, _PIECE * groups // x.numel()))
    return (slice(start, min(start + at_once, x.shape[1])) for start in range(0, x.shape[1], at_once))


class _LayerNorm(torch.autograd.Function):
    """layer_norm(x) over the last axis: float32 inside, some rows at a time; out as it came in."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.eps = eps
        out, rows = torch.empty_like(x, memory_format=torch.contiguous_format), x.reshape(-1, x.shape[-1])
        flat = out.view_as(rows)
        for part in _rows(rows):
            whole = rows[part].float()
            flat[part] = torch.native_layer_norm(whole, whole.shape[-1:], weight.float(), bias.float(), eps)[0]
        return out

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        out, rows = torch.empty_like(x, memory_format=torch.contiguous_format), x.reshape(-1, x.shape[-1])
        flat, slopes = out.view_as(rows), slope.reshape(-1, x.shape[-1])
        affine = weight.float(), bias.float()
        for part in _rows(rows):
            whole = rows[part].float()
            _, mean, deviation = torch.native_layer_norm(whole, whole.shape[-1:], *affine, ctx.eps)
            flat[part] = torch.ops.aten.native_layer_norm_backward(
                slopes[part].float(), whole, whole.shape[-1:], mean, deviation, *affine, [True, False, False]
            )[0]
        return out, None, None, None


def _rows(x: Tensor) -> Iterator[slice]:
    at_once = max(1, _PIECE // x.shape[1])
    return (slice(start, start + at_once) for start in range(0, x.shape[0], at_once))


class _Gated(torch.autograd.Function):
    """value * gelu(gate) of both halves of the last axis; neither gelu(gate) nor the halves' slopes are kept apart."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        value, gate = both.chunk(2, dim=-1)
        return F.gelu(gate).mul_(value)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (both,) = ctx.saved_tensors
        out = torch.empty_like(both, memory_format=torch.contiguous_format)
        rows, outs = both.reshape(-1, both.shape[-1]), out.view(-1, both.shape[-1])
        slopes = slope.reshape(-1, slope.shape[-1])
        for part in _rows(rows):
            value, gate = rows[part].chunk(2, dim=-1)
            of_value, of_gate = outs[part].chunk(2, dim=-1)
            of_value.copy_(F.gelu(gate).mul_(slopes[part]))
            of_gate.copy_(torch.ops.aten.gelu_backward(slopes[part] * value, gate))
        return out


class _Conv(torch.autograd.Function):
    """A convolution with frozen weights: its input is not needed for the slope of its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.dtype, ctx.how = x.shape, x.dtype, how
        return F.conv2d(x, weight, bias, *how)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        (weight,), (stride, padding, dilation, groups) = ctx.saved_tensors, ctx.how
        out = torch.nn.grad.conv2d_input(ctx.shape, weight.to(slope.dtype), slope, stride, padding, dilation, groups)
        return out.to(ctx.dtype), *[None] * 6


def _whole(x: Tensor) -> Tensor:
    return x.float().contiguous()

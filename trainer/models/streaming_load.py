"""Streaming load: a UNet's weights go from their files into it one at a time.

Nothing is mapped and nothing is read ahead: beside the UNet as it will be kept, there is one weight in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from .memory_saving.quantize import Quantize, load_weight, to_quantized_empty
from .safetensors_file import SafetensorsFile


@dataclass(frozen=True)
class Stored:
    """A weight where it lies: `name` is what `file` calls it."""

    file: SafetensorsFile
    name: str

    @property
    def place(self) -> tuple[str, int]:
        """Sorted by this, weights are read in the order in which they lie on the disk."""
        return str(self.file.path), self.file.spans[self.name][0]


def load_unet_streaming(
    config: Mapping[str, Any],
    stored: Mapping[str, Stored],
    device: torch.device,
    dtype: torch.dtype,
    how: Quantize,
    refused: Callable[[str], UserError],
) -> nn.Module:
    """The UNet2DConditionModel of a configuration: frozen, in evaluation mode, on `device`, stored as `how` says.

    stored: where each weight lies, by its name in the model; names that the model does not know are left out. Raises
    what `refused` makes of the reason where a weight is not there or has another shape, before any is read.
    """
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(dict(config))
    shapes = {name: tuple(weight.shape) for name, weight in unet.state_dict().items()}
    missing = sorted(shapes.keys() - stored.keys())
    odd = sorted(name for name in shapes.keys() & stored.keys() if _shape(stored[name]) != shapes[name])
    if missing:
        raise refused(f"lacks {len(missing)} weights of its own model (the first: {missing[0]})")
    if odd:
        raise refused(f"has other shapes for {len(odd)} weights (the first: {odd[0]})")
    to_quantized_empty(unet, how, dtype, device)
    for name in sorted(shapes, key=lambda name: stored[name].place):
        load_weight(unet, name, stored[name].file.tensor(stored[name].name))
    return unet


def _shape(weight: Stored) -> tuple[int, ...]:
    return weight.file.shapes[weight.name]

"""Base class of the families: a base model on disk, opened cheaply and loaded one part at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..device import capabilities
from .base_model import NoiseSchedule
from .content_hash import identity_of
from .few_step import distilled_by
from .memory_saving.quantize import Quantize, check
from .noise_schedule import noise_schedule
from .registry import FAMILIES
from .sources import PARTS, Source


class LocalModel:
    """Everything of `BaseModel` that does not depend on the family. Making one reads configurations, no weights."""

    family: str

    def __init__(self, source: Source, scheduler_config: Mapping[str, Any], *, memo: Path | None = None) -> None:
        """scheduler_config: as `resolve_prediction_type` gives it; memo: see `identity_of`."""
        self.source = source
        self.path = source.path
        self.scheduler_config = dict(scheduler_config)
        self.schedule: NoiseSchedule = self.make_schedule(scheduler_config)
        # Each block of the VAE but the last halves both sides; sample_size counts latent cells.
        self.latent_factor = 2 ** (len(source.config("vae")["block_out_channels"]) - 1)
        self.latent_channels = int(source.config("vae").get("latent_channels", FAMILIES[self.family].latent_channels))
        self.resolution = int(source.config("unet")["sample_size"]) * self.latent_factor
        self.distilled = distilled_by(source.names, scheduler_config, source.config("unet"))
        self._memo = memo

    @property
    def lora_targets(self) -> Mapping[str, tuple[str, ...]]:
        """See `BaseModel.lora_targets`."""
        return FAMILIES[self.family].lora_targets

    def make_schedule(self, scheduler_config: Mapping[str, Any]) -> NoiseSchedule:
        """The noise schedule; a family that is noised in another way than diffusion models has its own."""
        return noise_schedule(scheduler_config)

    def identity(self, part: str = "all") -> str:
        """See `BaseModel.identity`. For a single file all parts share the file's hash."""
        parts = PARTS if part == "all" else (part,)
        files = dict.fromkeys(file for name in parts for file in self.source.files(name))
        return identity_of(list(files), self._memo)

    def load_vae(self, device: torch.device) -> nn.Module:
        """A diffusers AutoencoderKL in a dtype in which it cannot overflow on this device."""
        from .memory_saving.low_memory_blocks import (
            use_low_memory_blocks,  # diffusers, which a face that only wants to know the family does without
        )

        vae = self.source.vae(device, capabilities(device).vae)
        use_low_memory_blocks(vae)
        return vae

    def load_unet(self, device: torch.device, dtype: torch.dtype, quantize: Quantize = "none") -> nn.Module:
        """See `BaseModel.load_unet`."""
        check(quantize, device)
        return self.source.unet(device, dtype, quantize)

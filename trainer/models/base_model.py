"""Base model: what one must be able to do, whichever family it is of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:  # pictures.py is needed where no model is: a page that shows pictures starts without torch
    import torch
    from torch import Tensor, nn

    from .few_step import FewStep
    from .memory_saving.quantize import Quantize

TextTensors: TypeAlias = "Mapping[str, Tensor]"
"""What a family's text encoders say, by name; one prompt: no batch axis; a batch: stacked along axis 0."""


@dataclass(frozen=True)
class NoiseSchedule:
    """The forward process of a base: noisy = sqrt(a_t) * clean + sqrt(1 - a_t) * noise.

    alphas_cumprod: (timesteps,) float32 on the CPU; prediction: "epsilon" or "v_prediction" (Salimans & Ho 2022).
    """

    alphas_cumprod: Tensor
    prediction: str

    @property
    def timesteps(self) -> int:
        return len(self.alphas_cumprod)

    def add_noise(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """clean, noise: (n, c, h, w); timestep: (n,) integers. Returns (n, c, h, w)."""
        signal, sigma = self._scales(clean, timestep)
        return signal * clean + sigma * noise

    def target(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What the model should answer for `add_noise` of the same arguments."""
        if self.prediction == "epsilon":
            return noise
        signal, sigma = self._scales(clean, timestep)
        return signal * noise - sigma * clean

    def to(self, device: torch.device) -> NoiseSchedule:
        return NoiseSchedule(self.alphas_cumprod.to(device), self.prediction)

    def _scales(self, like: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        # In float32 up to the root: in bfloat16, 1 - alpha near alpha = 1 would keep two or three bits.
        alpha = self.alphas_cumprod.to(like.device)[timestep].view(-1, 1, 1, 1)
        return alpha.sqrt().to(like.dtype), (1 - alpha).sqrt().to(like.dtype)


_EMBEDDED_GUIDANCE = 7.5
"""What a UNet that is told the guidance is told: diffusers' default for such models, 8.5, counted from 0."""


def guidance_embedding(unet: nn.Module, rows: int) -> dict[str, Tensor]:
    """The further input of a UNet that is told how strong the guidance is (LCM, arXiv 2310.04378); {} for others.

    rows: how many pictures it is asked about.
    """
    width = getattr(getattr(unet, "config", None), "time_cond_proj_dim", None)
    if not width:
        return {}
    import torch

    device, dtype = next(unet.parameters()).device, compute_dtype(unet)
    rates = torch.exp(-torch.arange(width // 2, dtype=torch.float32) * math.log(10_000) / (width // 2 - 1))
    angles = 1000 * _EMBEDDED_GUIDANCE * rates
    embedding = torch.nn.functional.pad(torch.cat([angles.sin(), angles.cos()]), (0, width % 2))
    return {"timestep_cond": embedding.to(device, dtype).expand(rows, width)}


def compute_dtype(unet: nn.Module) -> torch.dtype:
    """In which `unet` computes, whatever is wrapped around it: the dtype of its first layer, which is never quantized.

    `unet.dtype` is something else where weights are stored in fewer bits, and nothing that wraps a model has it.
    """
    return next(unet.parameters()).dtype


class TextEncoder(Protocol):
    """The text encoders of a base, loaded onto a device."""

    def __call__(self, prompts: Sequence[str]) -> list[dict[str, Tensor]]:
        """One dict of CPU tensors (no batch axis) for each prompt; long prompts are cut as the family does."""


class BaseModel(Protocol):
    """One base model on disk: opened (what it is), its parts loaded one at a time when asked for."""

    family: str
    """Its name in the registry: "sdxl", "sd15"."""
    path: Path
    """The folder or the single file (a hub id has been resolved to its cached snapshot folder)."""
    resolution: int
    """Side in px of the square whose area the base was trained for (1024, 512; the tiny world: 64)."""
    latent_factor: int
    """Pixels per latent cell along each side (8; the tiny world: 4)."""
    latent_channels: int
    """Channels of a latent."""
    schedule: NoiseSchedule
    scheduler_config: Mapping[str, Any]
    """For samplers of diffusers."""
    distilled: FewStep | None
    """What it is where it paints in a few steps only."""

    @property
    def lora_targets(self) -> Mapping[str, tuple[str, ...]]:
        """AdapterConfig.targets -> ends of the paths of the modules that get a LoRA."""

    def identity(self, part: str = "all") -> str:
        """Content hash, 16 hex digits, of the weights of a part: "text", "vae", "unet" or "all"."""

    def load_text(self, device: torch.device, dtype: torch.dtype) -> TextEncoder: ...

    def load_vae(self, device: torch.device) -> nn.Module:
        """A diffusers AutoencoderKL in a dtype in which it cannot overflow on this device."""

    def load_unet(self, device: torch.device, dtype: torch.dtype, quantize: Quantize = "none") -> nn.Module:
        """A diffusers UNet2DConditionModel that computes in `dtype`, frozen, in evaluation mode.

        quantize: how its weights are stored (see quantize.py). Loaded weight by weight: beside the UNet as it is
        stored, there is one weight in memory. Raises UserError where `device` cannot store it so.
        """

    def predict(self, unet: nn.Module, noisy: Tensor, timestep: Tensor, text: TextTensors, framing: Tensor) -> Tensor:
        """The UNet's answer in the schedule's prediction type.

        noisy: (n, c, h, w); timestep: (n,); text: batched, first axis n; framing: (n, 6), see SizeConditioning.as_list.
        Dtypes are mended here: the UNet computes in its own dtype, the answer comes back in that of `noisy`.
        Returns (n, c, h, w).
        """

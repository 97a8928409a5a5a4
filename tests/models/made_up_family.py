"""A family that the package does not know: its module, its row of the registry, and a folder of such a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from mapo_studio.tests.tiny_models import write_sd15
from mapo_studio.trainer.models.base_model import TextTensors
from mapo_studio.trainer.models.local_model import LocalModel
from mapo_studio.trainer.models.registry import Family
from mapo_studio.trainer.models.tokenizer import token_ids
from torch import Tensor, nn


class MadeUp(LocalModel):
    """Eight latent channels of 4 px, and text states that are called otherwise than in the families there are."""

    family = "madeup"

    def load_text(self, device: torch.device, dtype: torch.dtype) -> MadeUpText:
        return MadeUpText(self.source.tokenizer("tokenizer"), self.source.text_encoder("text_encoder", device, dtype))

    def predict(self, unet: nn.Module, noisy: Tensor, timestep: Tensor, text: TextTensors, framing: Tensor) -> Tensor:
        return unet(noisy, timestep, encoder_hidden_states=text["words"].to(noisy.dtype)).sample


class MadeUpText:
    def __init__(self, tokenizer, encoder) -> None:
        self._tokenizer, self._encoder = tokenizer, encoder

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> list[dict[str, Tensor]]:
        ids = token_ids(self._tokenizer, prompts, self._encoder.config.max_position_embeddings)
        states = self._encoder(ids.to(self._encoder.device)).last_hidden_state.cpu()
        return [{"words": words.clone()} for words in states]


ROW = Family(
    "madeup",
    "Made-Up 1",
    model=f"{__name__}:MadeUp",
    resolution=64,
    latent_channels=8,
    latent_factor=4,
    text_width=16,
    text_tokens=16,
    text_encoders={"text_encoder": "words."},
    unet_signs={"addition_embed_type": None},
    lora_architecture="made-up-v1/lora",
    lora_base_version="made_up_v1",
    lora_targets={"attention": ("attn2.to_q",), "all": ("attn2.to_q", "attn2.to_k", "ff.net.2")},
    preset_gib={8: 1.0},
)


def write_made_up(folder: Path) -> Path:
    return write_sd15(folder, latent_channels=ROW.latent_channels)

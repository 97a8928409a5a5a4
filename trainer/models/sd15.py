"""Stable Diffusion 1.x: how it is encoded for, conditioned and called."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .base_model import TextTensors, compute_dtype, guidance_embedding
from .local_model import LocalModel
from .sources import Source
from .tokenizer import token_ids


class SD15(LocalModel):
    """A base of the SD 1.x family (Rombach et al. 2022), with epsilon or v-prediction."""

    family = "sd15"

    def load_text(self, device: torch.device, dtype: torch.dtype) -> SD15Text:
        return SD15Text(self.source, device, dtype)

    def predict(self, unet: nn.Module, noisy: Tensor, timestep: Tensor, text: TextTensors, framing: Tensor) -> Tensor:
        """See `BaseModel.predict`. text: hidden (n, tokens, 768); framing: not used, this family has no such input."""
        dtype = compute_dtype(unet)
        guidance = guidance_embedding(unet, len(noisy))
        output = unet(noisy.to(dtype), timestep, encoder_hidden_states=text["hidden"].to(dtype), **guidance)
        return output.sample.to(noisy.dtype)


class SD15Text:
    """The text encoder. Call it with prompts: see `TextEncoder`.

    A prompt's tensors: `hidden` (tokens, 768), the last hidden state after the final norm. A model made for "clip skip"
    says so by having fewer layers in its configuration, and then the last one is the one it wants.
    """

    def __init__(self, source: Source, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self._tokenizer = source.tokenizer("tokenizer")
        self._encoder = source.text_encoder("text_encoder", device, dtype)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> list[dict[str, Tensor]]:
        if not prompts:
            return []
        ids = token_ids(self._tokenizer, prompts, self._encoder.config.max_position_embeddings)
        hidden = self._encoder(ids.to(self._device)).last_hidden_state.cpu()
        return [{"hidden": h.clone()} for h in hidden]

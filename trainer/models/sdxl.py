"""Stable Diffusion XL: how it is encoded for, conditioned and called."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .base_model import TextTensors, compute_dtype, guidance_embedding
from .local_model import LocalModel
from .sources import Source
from .tokenizer import token_ids


class SDXL(LocalModel):
    """A base of the SDXL family (Podell et al. 2023), with epsilon or v-prediction."""

    family = "sdxl"

    def load_text(self, device: torch.device, dtype: torch.dtype) -> SDXLText:
        return SDXLText(self.source, device, dtype)

    def predict(self, unet: nn.Module, noisy: Tensor, timestep: Tensor, text: TextTensors, framing: Tensor) -> Tensor:
        """See `BaseModel.predict`. text: hidden (n, tokens, 2048) and pooled (n, 1280)."""
        dtype = compute_dtype(unet)
        # Time ids stay float32: bfloat16 would turn 1023 into 1024. The UNet embeds them before it casts.
        added = {"text_embeds": text["pooled"].to(dtype), "time_ids": framing.to(noisy.device, torch.float32)}
        hidden = text["hidden"].to(dtype)
        guidance = guidance_embedding(unet, len(noisy))
        output = unet(noisy.to(dtype), timestep, encoder_hidden_states=hidden, added_cond_kwargs=added, **guidance)
        return output.sample.to(noisy.dtype)


class SDXLText:
    """Both text encoders. Call it with prompts: see `TextEncoder`.

    A prompt's tensors: `hidden` (tokens, 2048), the second-to-last hidden states of both encoders side by side, without
    final norm; `pooled` (1280,), the second encoder's projected end-of-text state.
    """

    def __init__(self, source: Source, device: torch.device, dtype: torch.dtype) -> None:
        names = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
        self._device = device
        self._pairs = [(source.tokenizer(t), source.text_encoder(e, device, dtype)) for t, e in names]

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> list[dict[str, Tensor]]:
        if not prompts:
            return []
        hidden, pooled = [], None
        for number, (tokenizer, encoder) in enumerate(self._pairs):
            max_length = encoder.config.max_position_embeddings
            ids = token_ids(tokenizer, prompts, max_length, warn_truncated=number == 0).to(self._device)
            outputs = encoder(ids, output_hidden_states=True)
            hidden.append(outputs.hidden_states[-2])
            pooled = outputs[0]  # of the last encoder, the only one with a projection: text_embeds
        both = torch.cat(hidden, dim=-1).cpu()
        return [{"hidden": h.clone(), "pooled": p.clone()} for h, p in zip(both, pooled.cpu(), strict=True)]

"""What does a run need of a card's memory at its peak? Counted without a card (see counting.py), in seconds.

What is done is the engine's own: its step (learner.py), its painting of a sample picture (generate.py), its encoding.
Only the optimizer's states are arithmetic: bitsandbytes' 8-bit AdamW keeps two bytes a weight and two float32 for each
256 weights; torch's AdamW keeps two float32 a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from ..config.run_config import RunConfig, TrainingConfig
from ..images.crop import SizeConditioning
from ..latents.encode import EncodedPair
from ..models.base_model import BaseModel
from ..models.memory_saving.vae_tiling import in_tiles
from ..sampling.sampler import decoded, guided, pictures_at_once
from ..training.batches import ImageBatch, PairBatch, separate_index
from ..training.learner import Learner
from ..training.optimizer import LoraOptimizer
from .meta_tracker import CARD, LiveStorage, as_on_cuda, size_of

GIB = 2**30
_BLOCK = 256
_PROMPTS_AT_ONCE = 8


@dataclass(frozen=True)
class Footprint:
    """Bytes. The peak of a step is made of weights (the frozen base), adapter (the LoRA and its gradients), optimizer
    (its states) and activations (all else, at the moment when there is most). sampling: the most while a sample
    picture is painted; encoding: the most before the UNet is there; host: the most in the computer's memory instead."""

    weights: int
    adapter: int
    optimizer: int
    activations: int
    sampling: int
    encoding: int
    host: int

    @property
    def peak(self) -> int:
        """Of a training step."""
        return self.weights + self.adapter + self.optimizer + self.activations

    @property
    def most(self) -> int:
        """Of the run, from encoding to the last sample picture."""
        return max(self.peak, self.sampling, self.encoding)

    def in_gib(self) -> dict[str, float]:
        """As `weights_gib` and so on, and `peak_gib` and `most_gib`, in GiB of 2**30 bytes."""
        names = [*(one.name for one in fields(self)), "peak", "most"]
        return {f"{name}_gib": round(getattr(self, name) / GIB, 3) for name in names}


class Count:
    """Counts for one base: see families/shapes.py."""

    def __init__(self, base: BaseModel) -> None:
        self.base = base

    def of(self, config: RunConfig) -> Footprint:
        """What a training with `config` takes. Raises UserError for a LoRA that cannot be put onto the base."""
        side = config.data.resolution or self.base.resolution
        with as_on_cuda():
            learner = Learner(_resolved(config), self.base, CARD)
            trained = [one for one in learner.unet.parameters() if one.requires_grad]
            frozen = [one for one in learner.unet.parameters() if not one.requires_grad]
            weights, lora = size_of([*frozen, *learner.unet.buffers()]), size_of(trained)
            on_card, on_host = _states(config.optimization.optimizer, sum(one.numel() for one in trained))
            step, host = peak_of_step(learner, self.batch(config.training.batch_size, side))
            painting = self._painting(learner.unet, config.training, side)
        picture = max(painting, self._decoding(side, config.training.split_pair)) + on_card
        encoding = max(self._text[0], self._encoding(side))
        activations = step - weights - 2 * lora
        return Footprint(weights, 2 * lora, on_card, activations, picture, encoding, host + on_host)

    def _painting(self, unet: nn.Module, training: TrainingConfig, side: int) -> int:
        """The most of one guided answer of the UNet, for as many sample pictures as samples.py paints at once."""
        unet.eval().zero_grad()
        live, cells = LiveStorage(), side // self.base.latent_factor
        for tensor in (*unet.parameters(), *unet.buffers()):
            live.add(tensor)
        at_once = min(pictures_at_once((side, side)), training.batch_size)
        noisy = torch.zeros(at_once, self.base.latent_channels, cells, cells, device=CARD)
        timestep, framing = torch.zeros((), device=CARD), torch.zeros(1, 6, device=CARD)
        text = self._text_batch(at_once, CARD)
        with live, torch.no_grad():
            guided(self.base, unet, noisy, timestep, text, text, framing, 5.0, 0.0, training.split_pair)
        return live.most

    def _decoding(self, side: int, tiled: bool) -> int:
        cells = side // self.base.latent_factor
        with LiveStorage() as live, as_on_cuda():
            vae = self.base.source.vae(CARD, torch.bfloat16)
            if tiled:
                in_tiles(vae)
            decoded(vae, torch.zeros(1, self.base.latent_channels, cells, cells, device=CARD))
        return live.most

    def _encoding(self, side: int) -> int:
        with LiveStorage() as live, as_on_cuda(), torch.no_grad():
            vae = self.base.source.vae(CARD, torch.bfloat16)
            at_once = min(16, max(1, 1024 * 1024 // side**2))
            vae.encode(torch.zeros(at_once, 3, side, side, dtype=vae.dtype, device=CARD))
        return live.most

    @cached_property
    def _text(self) -> tuple[int, Mapping[str, tuple[int, ...]]]:
        """(the most while prompts are encoded, the shapes of what a prompt becomes)."""
        with LiveStorage() as live, as_on_cuda(), torch.no_grad():
            said = self.base.load_text(CARD, torch.float16)(["prompt"] * _PROMPTS_AT_ONCE)
        return live.most, {name: tuple(tensor.shape) for name, tensor in said[0].items()}

    def _text_batch(self, pairs: int, device: torch.device) -> dict[str, Tensor]:
        return {name: torch.zeros(pairs, *shape, device=device) for name, shape in self._text[1].items()}

    def batch(self, pairs: int, side: int, device: torch.device = CARD) -> PairBatch:
        """A batch of the right shapes, of zeros where `device` holds numbers."""
        return batch_of(pairs, side, self.base, self._text[1], device)


def batch_of(
    pairs: int,
    side: int,
    base: BaseModel,
    text: Mapping[str, tuple[int, ...]],
    device: torch.device,
    made: Callable[..., Tensor] = torch.zeros,
) -> PairBatch:
    """A batch of no pictures at all: shapes for whoever counts or times a step.

    side: of the pictures, in px; base: whose latents it has; text: the shapes of what a prompt becomes; made: zeros,
    or torch.randn where numbers matter.
    """
    framing = SizeConditioning(side, side, 0, 0, side, side)
    nowhere, cells, images = Path(), side // base.latent_factor, 2 * pairs
    latents = made(2, images, base.latent_channels, cells, cells, device=device)
    return PairBatch(
        pairs=(EncodedPair(None, (side, side), framing, nowhere, nowhere, nowhere),) * pairs,  # type: ignore[arg-type]
        images=ImageBatch(
            latents=latents[0],
            noise=latents[1],
            timestep=torch.zeros(images, dtype=torch.long, device=device),
            text={name: made(images, *shape, device=device) for name, shape in text.items()},
            framing=torch.tensor([framing.as_list()] * images, dtype=torch.float32, device=device),
        ),
        pair_index=separate_index(pairs),
        preference=torch.ones(pairs, device=device),
        weight=torch.ones(pairs, device=device),
    )


def peak_of_step(learner: Learner, batch: PairBatch, card: torch.device = CARD) -> tuple[int, int]:
    """Bytes, (on `card`, on the host), of a step at its peak with the weights, and with gradients of a batch before it.

    The optimizer's states are not in it, and its own arithmetic is left out: on a card that is one kernel, without
    temporaries, of weights and gradients as vectors. card: the CPU where `learner` and `batch` are real.
    """
    live = LiveStorage(card)
    for tensor in (*learner.unet.parameters(), *learner.unet.buffers()):
        live.add(tensor)
        if tensor.requires_grad:
            tensor.grad = torch.zeros_like(tensor)
            live.add(tensor.grad)
    before = live.host_now
    with live, patch.object(LoraOptimizer, "step", lambda _, gradient, *__: gradient.new_zeros(())):
        learner.learn(0, [batch])
    return live.most, live.host_most - before


def _resolved(config: RunConfig) -> RunConfig:
    """`config` with what `auto` is on a card; half precision is counted as bfloat16, which is as large as float16."""
    training = config.training
    changes: dict[str, Any] = {"precision": "float32" if training.precision == "float32" else "bfloat16"}
    if training.gradient_checkpointing == "auto":
        changes["gradient_checkpointing"] = "on"
    return config.model_copy(
        update={
            "training": training.model_copy(update=changes),
            "optimization": config.optimization.model_copy(update={"optimizer": "adamw"}),  # its states are arithmetic
        }
    )


def _states(optimizer: str, weights: int) -> tuple[int, int]:
    """Bytes of the optimizer's states (on the card, in the computer's memory); all weights of a LoRA are one vector."""
    size = 8 * weights if optimizer == "adamw" else 2 * weights + 8 * -(-weights // _BLOCK)
    return (0, size) if optimizer.startswith("paged") else (size, 0)

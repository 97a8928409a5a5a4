"""Memory estimate: what a run needs of a card at its peak, counted without a card (see meta_tracker.py), in seconds.

What is counted is the engine's own: its step (learner.py), its sampling of an image (sampler.py), its encoding.
Only the optimizer's states are arithmetic, by its row in config/optimizers.py.
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

from ..config.optimizers import optimizer_row
from ..config.run_config import RunConfig, TrainingConfig
from ..images.crop import SizeConditioning
from ..latents import encode
from ..models.base_model import BaseModel
from ..models.memory_saving.vae_tiling import in_tiles
from ..sampling.sampler import classifier_free_guidance, decoded, images_per_batch
from ..training.batches import ImageBatch, PairBatch, separate_index
from ..training.learner import Learner
from ..training.optimizer import LoraOptimizer
from .meta_tracker import META, MetaMemoryTracker, emulate_cuda_autocast, size_of

GIB = 2**30


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes. The peak of a step is made of weights (the frozen base), adapter (the LoRA and its gradients), optimizer
    (its states) and activations (all else, at the peak). sampling: the peak while an image is sampled; encoding: the
    peak before the UNet is loaded; host: the peak in the computer's memory instead."""

    weights: int
    adapter: int
    optimizer: int
    activations: int
    sampling: int
    encoding: int
    host: int

    @property
    def step_peak(self) -> int:
        """Of a training step."""
        return self.weights + self.adapter + self.optimizer + self.activations

    @property
    def run_peak(self) -> int:
        """Of the run, from encoding to the last sampled image."""
        return max(self.step_peak, self.sampling, self.encoding)

    def in_gib(self) -> dict[str, float]:
        """In GiB of 2**30 bytes, as `weights_gib` and so on; `peak_gib` of a step, `most_gib` of the run."""
        sizes = {field.name: getattr(self, field.name) for field in fields(self)}
        sizes |= {"peak": self.step_peak, "most": self.run_peak}
        return {f"{name}_gib": round(size / GIB, 3) for name, size in sizes.items()}


class MemoryEstimator:
    """Counts for one base without numbers: see models/meta_models.py."""

    def __init__(self, base: BaseModel) -> None:
        self.base = base

    def estimate(self, config: RunConfig) -> MemoryEstimate:
        """What a training with `config` takes. Raises UserError for a LoRA that cannot be put onto the base."""
        side = config.data.resolution or self.base.resolution
        with emulate_cuda_autocast():
            learner = Learner(_resolved(config), self.base, META)
            trained = [weight for weight in learner.unet.parameters() if weight.requires_grad]
            frozen = [weight for weight in learner.unet.parameters() if not weight.requires_grad]
            weights, lora = size_of([*frozen, *learner.unet.buffers()]), size_of(trained)
            optimizer = optimizer_row(config.optimization.optimizer)
            states = optimizer.memory(sum(weight.numel() for weight in trained))
            on_card, on_host = (0, states) if optimizer.paged else (states, 0)
            step, host = peak_of_step(learner, self.batch(config.training.batch_size, side))
            sampling = self._sampling(learner.unet, config.training, side)
        sampling = max(sampling, self._decoding(side, config.training.split_pair)) + on_card
        encoding = max(self._text[0], self._encoding(side))
        activations = step - weights - 2 * lora
        return MemoryEstimate(weights, 2 * lora, on_card, activations, sampling, encoding, host + on_host)

    def _sampling(self, unet: nn.Module, training: TrainingConfig, side: int) -> int:
        """Peak of one guided step of the UNet, for as many images as are sampled at once."""
        unet.eval().zero_grad()
        live, cells = MetaMemoryTracker(), side // self.base.latent_factor
        for tensor in (*unet.parameters(), *unet.buffers()):
            live.add(tensor)
        batch = min(images_per_batch((side, side)), training.batch_size)
        noisy = torch.zeros(batch, self.base.latent_channels, cells, cells, device=META)
        timestep, framing = torch.zeros((), device=META), torch.zeros(1, 6, device=META)
        text = self._text_batch(batch, META)
        with live, torch.no_grad():
            classifier_free_guidance(
                self.base, unet, noisy, timestep, text, text, framing, 5.0, 0.0, training.split_pair
            )
        return live.peak

    def _decoding(self, side: int, tiled: bool) -> int:
        cells = side // self.base.latent_factor
        with MetaMemoryTracker() as live, emulate_cuda_autocast():
            vae = self.base.source.vae(META, torch.bfloat16)
            if tiled:
                in_tiles(vae)
            decoded(vae, torch.zeros(1, self.base.latent_channels, cells, cells, device=META))
        return live.peak

    def _encoding(self, side: int) -> int:
        with MetaMemoryTracker() as live, emulate_cuda_autocast(), torch.no_grad():
            vae = self.base.source.vae(META, torch.bfloat16)
            images = encode.images_per_batch(side, side, META)
            vae.encode(torch.zeros(images, 3, side, side, dtype=vae.dtype, device=META))
        return live.peak

    @cached_property
    def _text(self) -> tuple[int, Mapping[str, tuple[int, ...]]]:
        """(the peak while prompts are encoded, the shapes of a prompt's text tensors)."""
        with MetaMemoryTracker() as live, emulate_cuda_autocast(), torch.no_grad():
            outputs = self.base.load_text(META, torch.float16)(["prompt"] * encode.PROMPTS_PER_BATCH)
        return live.peak, {name: tuple(tensor.shape) for name, tensor in outputs[0].items()}

    def _text_batch(self, pairs: int, device: torch.device) -> dict[str, Tensor]:
        return {name: torch.zeros(pairs, *shape, device=device) for name, shape in self._text[1].items()}

    def batch(
        self, pairs: int, side: int, device: torch.device = META, fill: Callable[..., Tensor] = torch.zeros
    ) -> PairBatch:
        """A batch of the right shapes, see `batch_of`."""
        return batch_of(pairs, side, self.base, self._text[1], device, fill)


def batch_of(
    pairs: int,
    side: int,
    base: BaseModel,
    text: Mapping[str, tuple[int, ...]],
    device: torch.device,
    fill: Callable[..., Tensor] = torch.zeros,
) -> PairBatch:
    """A batch of no images at all: shapes for whoever counts or times a step.

    side: of the images, in px; base: whose latents it has; text: the shapes of a prompt's text tensors; fill:
    torch.zeros, or torch.randn where numbers matter.
    """
    framing = SizeConditioning(side, side, 0, 0, side, side)
    nowhere, cells, images = Path(), side // base.latent_factor, 2 * pairs
    latents = fill(2, images, base.latent_channels, cells, cells, device=device)
    return PairBatch(
        pairs=(encode.EncodedPair(None, (side, side), framing, nowhere, nowhere, nowhere),) * pairs,  # type: ignore[arg-type]
        images=ImageBatch(
            latents=latents[0],
            noise=latents[1],
            timestep=torch.zeros(images, dtype=torch.long, device=device),
            text={name: fill(images, *shape, device=device) for name, shape in text.items()},
            framing=torch.tensor([framing.as_list()] * images, dtype=torch.float32, device=device),
        ),
        pair_index=separate_index(pairs),
        preference=torch.ones(pairs, device=device),
        weight=torch.ones(pairs, device=device),
    )


def peak_of_step(learner: Learner, batch: PairBatch, card: torch.device = META) -> tuple[int, int]:
    """Bytes, (on `card`, on the host), of a step at its peak with the weights, and with gradients of a batch before it.

    The optimizer's states are not in it, and its own arithmetic is left out: on a card that is one kernel, without
    temporaries, of weights and gradients as vectors. card: the CPU where `learner` and `batch` are real.
    """
    live = MetaMemoryTracker(card)
    for tensor in (*learner.unet.parameters(), *learner.unet.buffers()):
        live.add(tensor)
    before = live.host_now
    with live, patch.object(LoraOptimizer, "step", lambda optimizer, *_: optimizer.grad.new_zeros(())):
        learner.train_step(0, [batch])
    return live.peak, live.host_peak - before


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

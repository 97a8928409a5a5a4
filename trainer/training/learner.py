"""The model that learns: base, LoRA, optimizer and precision put together, and one optimizer step of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..config.run_config import RunConfig
from ..device import capabilities, pick_precision, torch_dtype
from ..distributed import SINGLE, World
from ..lora import adapter
from ..lora.file import read_lora
from ..models.base_model import BaseModel
from ..models.memory_saving import activation_checkpointing
from ..models.memory_saving import compile as speed
from .batches import PairBatch, seeded
from .checkpoint import LearnerState
from .gradient import accumulate_gradient, gradient_mode
from .objectives import Judged, PairErrors
from .optimizer import build_optimizer, lr_multiplier


class Learner:
    """Holds the UNet with its LoRA on `device`. `notes`: a sentence for each thing that could not be had."""

    def __init__(self, config: RunConfig, base: BaseModel, device: torch.device, world: World = SINGLE):
        """Load the UNet, freeze it, put a LoRA onto it (the one to continue from, if any) and build the optimizer."""
        training = config.training
        self.base = base
        self.objective = config.objective.build()
        self.settings, initial = lora_settings(config)
        self.precision = pick_precision(training.precision, device)
        self.mode = gradient_mode(training.split_pair, training.gradient_checkpointing)
        pairs_at_once = min(training.batch_size, training.pairs_at_once or training.batch_size)
        self._max_images = (2 if self.mode == "joint" else 1) * pairs_at_once
        self.between_steps = True  # not where an error came out of the optimizer, which may have moved a part by then
        self._config = config
        self._world = world

        unet = base.load_unet(device, torch_dtype(self.precision), training.quantize)
        activation_checkpointing.apply(unet, training.gradient_checkpointing, device)
        parameters = adapter.attach(unet, self.settings, training.seed, base.lora_targets)
        if self.precision != "float32":
            adapter.leave_casts_to_autocast(unet)
        if initial is not None:
            adapter.load_state(unet, initial)
        faster = speed.apply(unet, training, device)
        self._optimizer, notes = build_optimizer(
            config.optimization, parameters, loss_scaling=self.precision == "float16"
        )
        self._optimizer.flat.follow(unet)
        self.notes = (*capabilities(device).notes, *filter(None, [faster]), *notes)
        # However it is called, in a step, a measurement or a sample: the float32 LoRA beside it too.
        mixed = torch.autocast(device.type, torch_dtype(self.precision), enabled=self.precision != "float32")
        unet.forward = mixed(unet.forward)
        self.unet = unet.train()

    def learn(self, step: int, batches: Sequence[PairBatch]) -> Tensor:
        """Optimizer step number `step`, from 0, on the mean loss over all pairs of `batches`, and of other processes'.

        Returns metrics.METRICS of the step, in their order, float32, still on the device: nothing waits for it here.
        """
        config = self._config
        pairs = sum(map(len, batches))
        numbers = []
        self._optimizer.zero_grad()
        for place, batch in _parts(batches, config.training.pairs_at_once):
            share = len(batch) / pairs if batch.loss_weight is None else batch.loss_weight
            # LoRA dropout draws from the global generators; seeding them makes a batch a function of its number.
            seed = seeded(config.training.seed, "dropout", batch.index, place).initial_seed()
            judged, errors = accumulate_gradient(
                self.base,
                self.unet,
                batch,
                self.objective,
                lambda loss: self._optimizer.scale(loss * share).backward(),  # noqa: B023 (it is called right here)
                mode=self.mode,
                seed=seed,
                safeguard=config.objective.loser_guard,
                max_images=self._max_images,
            )
            numbers.append(share * _numbers(judged, errors))
        means = torch.stack(numbers).sum(0)
        self._world.all_reduce_(self._optimizer.grad, means)
        self.between_steps = False
        norm = self._optimizer.step(self.learning_rate(step), config.optimization.max_gradient_norm)
        self.between_steps = True
        return torch.cat([means, norm.view(1)])

    def learning_rate(self, step: int) -> float:
        """The rate that step number `step`, from 0, is taken with."""
        optimization = self._config.optimization
        return optimization.learning_rate * lr_multiplier(optimization, step, self._config.training.steps)

    def state_dict(self) -> LearnerState:
        """The LoRA's weights and the optimizer's state, as a checkpoint holds them."""
        return LearnerState(adapter.state(self.unet), self._optimizer.state_dict())

    def load_state_dict(self, state: LearnerState) -> None:
        """Go back to a saved state; a note is added where the optimizer could not."""
        adapter.load_state(self.unet, state.adapter)
        if note := self._optimizer.load_state_dict(state.optimizer):
            self.notes += (note,)


def _parts(batches: Sequence[PairBatch], most: int | None) -> Iterator[tuple[int, PairBatch]]:
    """What goes through the base at once, and as which part of its batch."""
    return ((place, part) for batch in batches for place, part in enumerate(batch.parts(most)))


def _numbers(judged: Judged, errors: PairErrors) -> Tensor:
    means = [one.mean() for one in (judged.loss, errors.chosen, errors.rejected, judged.margin, judged.agreement)]
    return torch.stack([one.detach().to(errors.chosen.device, torch.float32) for one in means])


def lora_settings(config: RunConfig) -> tuple[adapter.LoraSettings, dict[str, Tensor] | None]:
    """The shape of the LoRA and its first weights: those of the file to continue from, else as configured and None."""
    if config.adapter.continue_from:
        file = read_lora(Path(config.adapter.continue_from))
        return file.settings, file.state
    asked = config.adapter
    return adapter.LoraSettings(asked.rank, asked.alpha, asked.dropout, asked.targets, asked.rslora), None

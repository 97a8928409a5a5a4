"""The train step: base, LoRA, objective, optimizer and precision put together, and one optimizer step of them."""

from __future__ import annotations

from collections.abc import Sequence
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
from .objectives import build_objective
from .optimizer import build_optimizer, lr_multiplier


class Learner:
    """The UNet with its LoRA on `device`, its objective and optimizer.

    objective: may be replaced before the first step. mode: see GradientMode. fallbacks: a sentence for each feature
    that is unavailable here. in_optimizer_step: True from the optimizer's first change of a weight until its last, and
    after an error within.
    """

    def __init__(self, config: RunConfig, base: BaseModel, device: torch.device, world: World = SINGLE):
        """Load the UNet, freeze it, put a LoRA onto it (the one to continue from, if any) and build the optimizer."""
        training = config.training
        self.base = base
        self.objective = build_objective(config.objective)
        self.settings, initial = lora_settings(config)
        self.precision = pick_precision(training.precision, device)
        self.mode = gradient_mode(training.split_pair, training.gradient_checkpointing)
        self.in_optimizer_step = False
        self._config = config
        self._world = world

        unet = base.load_unet(device, torch_dtype(self.precision), training.quantize)
        activation_checkpointing.apply(unet, training.gradient_checkpointing, device)
        parameters = adapter.attach(unet, self.settings, training.seed, base.lora_targets)
        if self.precision != "float32":
            adapter.disable_input_cast(unet)
        if initial is not None:
            adapter.load_lora_state_dict(unet, initial)
        compile_fallback = speed.apply(unet, training, device)
        self._optimizer, optimizer_fallbacks = build_optimizer(
            config.optimization, parameters, loss_scaling=self.precision == "float16"
        )
        self._optimizer.flat.follow(unet)
        self.fallbacks = (*capabilities(device).notes, *filter(None, [compile_fallback]), *optimizer_fallbacks)
        # However it is called, in a step, a measurement or a sample: the float32 LoRA beside it too.
        autocast = torch.autocast(device.type, torch_dtype(self.precision), enabled=self.precision != "float32")
        unet.forward = autocast(unet.forward)
        self.unet = unet.train()

    def train_step(self, step: int, batches: Sequence[PairBatch]) -> Tensor:
        """Optimizer step number `step`, from 0, on the mean loss over all pairs of `batches`, and of other processes'.

        Returns the step's metrics in the order of METRICS, float32, still on the device: nothing waits for it here.
        """
        pairs = sum(map(len, batches))
        self._optimizer.zero_grad()
        metrics = []
        for batch in batches:
            for part, micro_batch in enumerate(batch.parts(self._config.training.pairs_at_once)):
                loss_weight = micro_batch.loss_weight or len(micro_batch) / pairs
                metrics.append(self._forward_backward(micro_batch, part, loss_weight))
        means = torch.stack(metrics).sum(0)
        self._world.all_reduce_(self._optimizer.grad, means)
        self.in_optimizer_step = True
        norm = self._optimizer.step(self.learning_rate(step), self._config.optimization.max_gradient_norm)
        self.in_optimizer_step = False
        return torch.cat([means, norm.view(1)])

    def _forward_backward(self, batch: PairBatch, part: int, loss_weight: float) -> Tensor:
        """Add `loss_weight` times the gradient of a part of a batch. Returns its metrics, as much of the step's."""
        training = self._config.training
        pairs_at_once = min(training.batch_size, training.pairs_at_once or training.batch_size)
        loss_output, errors = accumulate_gradient(
            self.base,
            self.unet,
            batch,
            self.objective,
            backward=lambda loss: self._optimizer.scale(loss * loss_weight).backward(),
            mode=self.mode,
            # LoRA dropout draws from the global generators; seeding them makes a batch a function of its number.
            seed=seeded(training.seed, "dropout", batch.index, part).initial_seed(),
            safeguard=self._config.objective.safeguard,
            max_images=(2 if self.mode == "joint" else 1) * pairs_at_once,
        )
        values = (loss_output.loss, errors.chosen, errors.rejected, loss_output.margin, loss_output.agreement)
        means = [value.detach().mean().to(errors.chosen.device, torch.float32) for value in values]
        return loss_weight * torch.stack(means)

    def learning_rate(self, step: int) -> float:
        """The rate that step number `step`, from 0, is taken with."""
        optimization = self._config.optimization
        return optimization.learning_rate * lr_multiplier(optimization, step, self._config.training.steps)

    def state_dict(self) -> LearnerState:
        """The LoRA's weights and the optimizer's state, as a checkpoint holds them."""
        return LearnerState(adapter.lora_state_dict(self.unet), self._optimizer.state_dict())

    def load_state_dict(self, state: LearnerState) -> None:
        """Go back to a saved state; a fallback is added where the optimizer could not."""
        adapter.load_lora_state_dict(self.unet, state.adapter)
        if fallback := self._optimizer.load_state_dict(state.optimizer):
            self.fallbacks += (fallback,)


def lora_settings(config: RunConfig) -> tuple[adapter.LoraSettings, dict[str, Tensor] | None]:
    """The shape of the LoRA and its first weights: those of the file to continue from, else as configured and None."""
    if config.adapter.continue_from:
        file = read_lora(Path(config.adapter.continue_from))
        return file.settings, file.state
    shape = config.adapter
    settings = adapter.LoraSettings(shape.rank, shape.alpha, shape.dropout, shape.targets, shape.rslora)
    return settings, None

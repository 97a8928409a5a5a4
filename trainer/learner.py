"""The model that learns: base, LoRA, optimizer and precision put together, and one optimizer step of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from . import adapters, checkpointing, speed
from .batches import PairBatch, seeded
from .checkpoints import Origin, State
from .config import RunConfig
from .device import DTYPES, pick_precision
from .families.base import Base
from .lora_file import read_lora
from .objectives import Judged, PairErrors
from .optimizers import build_optimizer, lr_factor
from .pair_gradient import add_gradient, way_of

_MIXED = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


class Learner:
    """Holds the UNet with its LoRA on `device`. `notes`: a sentence for each thing that could not be had."""

    def __init__(self, config: RunConfig, base: Base, device: torch.device):
        """Load the UNet, freeze it, put a LoRA onto it (the one to continue from, if any) and build the optimizer."""
        training = config.training
        self.base = base
        self.objective = config.objective.build()
        self.settings, initial = lora_settings(config)
        self.precision = pick_precision(training.precision, device)
        self.way = way_of(training.split_pair, training.gradient_checkpointing)
        self._config = config

        unet = base.load_unet(device, DTYPES[self.precision], training.quantize)
        checkpointing.apply(unet, training.gradient_checkpointing, device)
        self._parameters = adapters.attach(unet, self.settings, training.seed)
        if self.precision != "float32":
            adapters.leave_casts_to_autocast(unet)
        if initial is not None:
            adapters.load_state(unet, initial)
        faster = speed.apply(unet, training, device)
        optimizer, note = build_optimizer(config.optimization, self._parameters)
        self.notes = tuple(one for one in (faster, note) if one is not None)

        AcceleratorState._reset_state()  # precision is this run's, not that of a run before it in this process
        # The UNet is where it belongs already; Accelerate would move it to its own idea of the first device.
        self._accelerator = Accelerator(
            cpu=device.type == "cpu", mixed_precision=_MIXED[self.precision], device_placement=False
        )
        self.unet, self._optimizer = self._accelerator.prepare(unet, optimizer)
        self.unet.train()

    def learn(self, step: int, batches: Sequence[PairBatch]) -> Tensor:
        """Optimizer step number `step`, from 0, on the mean loss over all pairs of `batches`.

        Returns the step's numbers in the order of meter.NAMES, float32, still on the device: nothing waits for it here.
        """
        config = self._config
        # LoRA dropout draws from the global generators; seeding them makes a step a function of its number.
        torch.manual_seed(seeded(config.training.seed, "step", step).initial_seed())
        pairs = sum(map(len, batches))
        numbers = []
        for number, batch in enumerate(batches, 1):
            last = number == len(batches)
            share = len(batch) / pairs
            with nullcontext() if last else self._accelerator.no_sync(self.unet):
                judged, errors = add_gradient(
                    self.base,
                    self.unet,
                    batch,
                    self.objective,
                    lambda loss: self._accelerator.backward(loss * share),  # noqa: B023 (it is called right here)
                    way=self.way,
                    seed=seeded(config.training.seed, "dropout", step, number).initial_seed(),
                )
            numbers.append(share * _numbers(judged, errors))
        norm = self._accelerator.clip_grad_norm_(self._parameters, config.optimization.max_gradient_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return torch.cat([torch.stack(numbers).sum(0), norm.detach().float().view(1)])

    def learning_rate(self, step: int) -> float:
        """The rate that step number `step`, from 0, is taken with."""
        optimization = self._config.optimization
        return optimization.learning_rate * lr_factor(optimization, step, self._config.training.steps)

    def state(self, step: int, origin: Origin) -> State:
        """Everything needed to go on after `step` steps."""
        optimizer = {"optimizer": self._optimizer.state_dict()}
        if self._accelerator.scaler is not None:
            optimizer["scaler"] = self._accelerator.scaler.state_dict()
        return State(step, adapters.state(self.unet), optimizer, origin)

    def restore(self, state: State) -> None:
        """Go back to a saved state."""
        adapters.load_state(self.unet, state.adapter)
        self._optimizer.load_state_dict(state.optimizer["optimizer"])
        if self._accelerator.scaler is not None and "scaler" in state.optimizer:
            self._accelerator.scaler.load_state_dict(state.optimizer["scaler"])


def _numbers(judged: Judged, errors: PairErrors) -> Tensor:
    means = [one.mean() for one in (judged.loss, errors.chosen, errors.rejected, judged.margin, judged.agreement)]
    return torch.stack([one.detach().to(errors.chosen.device, torch.float32) for one in means])


def lora_settings(config: RunConfig) -> tuple[adapters.LoraSettings, dict[str, Tensor] | None]:
    """The shape of the LoRA and its first weights: those of the file to continue from, else as configured and None."""
    if config.adapter.continue_from:
        file = read_lora(Path(config.adapter.continue_from))
        return file.settings, file.state
    asked = config.adapter
    return adapters.LoraSettings(asked.rank, asked.alpha, asked.dropout, asked.targets, asked.rslora), None

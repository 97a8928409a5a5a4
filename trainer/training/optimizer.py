"""Which optimizer moves the LoRA, and with which learning rate at which step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..config.run_config import OptimizerConfig
from ..device import Abilities, abilities


class LoraOptimizer:
    """Moves all weights of a LoRA as one vector.

    A LoRA is many hundred small matrices. As one vector they take one kernel instead of some for each of them, their
    gradients cross a network at once, and states are large enough to be paged, which bitsandbytes leaves undone for
    tensors below 100 000 numbers.
    """

    def __init__(
        self,
        kind: str,
        make: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        parameters: Sequence[nn.Parameter],
        *,
        loss_scaling: bool = False,
        prove: bool = False,
    ):
        """kind: whose states it keeps; those of one kind can be exchanged. make: builds it for a list of one vector.

        loss_scaling: for float16, whose small gradients would be lost. prove: take a step that moves nothing and raise
        whatever it raises: a library that can be imported need not work on this device.
        """
        self.kind = kind
        self._parameters = list(parameters)
        self._sizes = [one.numel() for one in parameters]
        self._vector = nn.Parameter(torch.empty(0, device=parameters[0].device))
        self._inner = make([self._vector])
        self._scaler = torch.amp.GradScaler(self._vector.device.type, enabled=loss_scaling)
        if prove:
            self._begin()

    def scaled(self, loss: Tensor) -> Tensor:
        """What to call backward on."""
        return self._scaler.scale(loss)

    @torch.no_grad()
    def gradient(self) -> Tensor:
        """The gradient of all weights, (weights,) float32, as scaled as the loss was; taken off the parameters."""
        parts = [torch.zeros_like(one) if one.grad is None else one.grad for one in self._parameters]
        whole = torch.cat([part.reshape(-1) for part in parts])
        for one in self._parameters:
            one.grad = None
        return whole

    @torch.no_grad()
    def step(self, gradient: Tensor, rate: float, max_norm: float) -> Tensor:
        """Move the weights against `gradient` (as from `gradient()`; spent afterwards), scaled down to `max_norm`.

        Returns its norm before that, a float32 scalar on the device.
        """
        norms = []

        def clipped() -> None:
            self._scaler.unscale_(self._inner)
            norms.append(torch.linalg.vector_norm(gradient))
            gradient.mul_((max_norm / (norms[0] + 1e-6)).clamp(max=1))
            self._scaler.step(self._inner)
            self._scaler.update()

        self._move(gradient, rate, clipped)
        return norms[0]

    def state(self) -> dict[str, Any]:
        """For `restore`: tensors on the CPU and numbers."""
        values = {name: one.cpu() if isinstance(one, Tensor) else one for name, one in self._values().items()}
        return {"kind": self.kind, "weights": sum(self._sizes), "values": values, "scaler": self._scaler.state_dict()}

    def restore(self, state: dict[str, Any]) -> str | None:
        """Go on from a `state`; of another kind of optimizer nothing is taken but the sentence that says so."""
        if (state.get("kind"), state.get("weights")) != (self.kind, sum(self._sizes)):
            saved = state.get("kind") or "an earlier version's"
            return f"the saved optimizer states are {saved}, this is {self.kind}: its running means begin anew"
        if not self._values():
            self._begin()
        self._fill(state["values"])
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])
        return None

    @torch.no_grad()
    def _begin(self) -> None:
        """Have the states made, by a step that moves nothing for want of a gradient and a rate, and is not counted."""
        self._move(torch.cat([torch.zeros_like(one).view(-1) for one in self._parameters]), 0.0, self._inner.step)
        self._fill({"step": 0})

    def _move(self, gradient: Tensor, rate: float, step: Callable[[], object]) -> None:
        # The vector has numbers for the length of a step only: between steps they would take memory twice.
        self._vector.data = torch.cat([one.reshape(-1) for one in self._parameters])
        self._vector.grad = gradient
        (group,) = self._inner.param_groups
        if isinstance(group["lr"], Tensor):  # torchao compiles its step, and would do so anew for every number
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
        step()
        moved = [
            part.view_as(one)
            for part, one in zip(self._vector.detach().split(self._sizes), self._parameters, strict=True)
        ]
        torch._foreach_copy_(self._parameters, moved)
        self._vector.grad = None
        self._vector.data = gradient.new_empty(0)

    def _values(self) -> dict[str, Any]:
        """The states as plain tensors and numbers by name; a packed tensor as its parts."""
        found: dict[str, Any] = {}
        for name, one in self._inner.state[self._vector].items():
            if hasattr(one, "__tensor_flatten__"):
                found |= {f"{name}.{part}": getattr(one, part) for part in one.__tensor_flatten__()[0]}
            else:
                found[name] = one
        return found

    def _fill(self, values: dict[str, Any]) -> None:
        # Into the tensors that are there: they lie where they belong, which for paged ones is no device of torch's.
        there = self._values()
        for name, value in values.items():
            if isinstance(there[name], Tensor):
                there[name].copy_(torch.as_tensor(value))
            else:
                self._inner.state[self._vector][name] = value


def build_optimizer(
    config: OptimizerConfig, parameters: Sequence[nn.Parameter], *, loss_scaling: bool = False
) -> tuple[LoraOptimizer, tuple[str, ...]]:
    """The optimizer that `config` asks for, and sentences where something else had to be taken."""
    settings = {
        "lr": config.learning_rate,
        "betas": (config.beta1, config.beta2),
        "weight_decay": config.weight_decay,
    }
    able = abilities(parameters[0].device)
    notes, problems = [], []
    wanted = config.optimizer
    if wanted == "auto":
        wanted = "adamw" if able.backend == "cpu" else "adamw8bit"
    if wanted == "paged_adamw8bit" and not able.paged:
        notes.append(f"optimizer states on {able.name} cannot be paged: they are kept there whole")
        wanted = "adamw8bit"
    for kind, how, make in _in_8_bits(wanted, able):
        try:
            built = LoraOptimizer(
                kind,
                lambda vector, make=make: make()(vector, **settings),
                parameters,
                loss_scaling=loss_scaling,
                prove=True,
            )
        except Exception as error:
            problems.append(f"{kind}{how}: {type(error).__name__}: {error}".splitlines()[0])
            continue
        if problems:
            notes.append(f"{'; '.join(problems)}. Using {kind} instead")
        return built, tuple(notes)
    if problems:
        why = "; ".join(problems)
        notes.append(f"8-bit AdamW cannot be had ({why}); using torch's AdamW, whose states need four times the memory")
    fused = parameters[0].device.type in ("cpu", "cuda")
    adamw = LoraOptimizer(
        "torch's AdamW",
        lambda vector: torch.optim.AdamW(vector, **settings, fused=fused),
        parameters,
        loss_scaling=loss_scaling,
    )
    return adamw, tuple(notes)


def lr_factor(config: OptimizerConfig, step: int, steps: int) -> float:
    """Share of the peak learning rate that step number `step` (from 0) of `steps` is taken with, in (0, 1]."""
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return 1.0
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return 1 - done if config.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2


def _in_8_bits(wanted: str, able: Abilities) -> Iterator[tuple[str, str, Callable[[], type]]]:
    """What to try for 8-bit states, the best first: whose they are, how they are kept, and what imports the class."""
    if wanted == "adamw":
        return
    for library in able.eight_bit:
        if library == "torchao":
            yield "torchao's 8-bit AdamW", "", _of_torchao
            continue
        if wanted == "paged_adamw8bit":
            yield "bitsandbytes' 8-bit AdamW", ", paged", _of_bitsandbytes_paged
        yield "bitsandbytes' 8-bit AdamW", "", _of_bitsandbytes


def _of_bitsandbytes() -> type:
    from bitsandbytes.optim import AdamW8bit

    class Unwaiting(AdamW8bit):
        """Its own step waits for the device to finish; nothing here needs the numbers that early."""

        @torch.no_grad()
        def step(self, closure: None = None) -> None:
            for group in self.param_groups:
                for one in group["params"]:
                    if not self.state[one]:
                        self.init_state(group, one, 0, 0)
                    self.update_step(group, one, 0, 0)

    return Unwaiting


def _of_bitsandbytes_paged() -> type:
    from bitsandbytes.optim import PagedAdamW8bit

    return PagedAdamW8bit


def _of_torchao() -> type:
    try:
        from torchao.optim import AdamW8bit
    except ImportError:  # where it was before 0.9
        from torchao.prototype.low_bit_optim import AdamW8bit
    return AdamW8bit

"""The optimizer of a LoRA, on all of its weights as one vector, and the learning rate's schedule."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..config.optimizers import OPTIMIZERS, Implementation, Optimizer, optimizer_row
from ..config.run_config import OptimizerConfig
from ..device import capabilities


class FlatParameters:
    """The weights of a LoRA as one vector, of which the layers' weights are views, and their gradients of its gradient.

    A LoRA is many hundred small matrices. As one vector they take one kernel instead of some for each of them, their
    gradients cross a network at once, and states are large enough to be paged, which bitsandbytes leaves undone for
    tensors below 100 000 numbers.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]):
        self._parameters = list(parameters)
        self._sizes = [one.numel() for one in parameters]
        self.vector = nn.Parameter(torch.cat([one.detach().reshape(-1) for one in parameters]))
        self._link()

    def zero_grad(self) -> None:
        """Gradients of zero, for backward passes to add to."""
        self.vector.grad = torch.zeros_like(self.vector)
        for one, grad in zip(self._parameters, self.vector.grad.split(self._sizes), strict=True):
            one.grad = grad.view_as(one)

    def release_grad(self) -> None:
        """No gradients: between steps, images are generated in their place."""
        for one in (self.vector, *self._parameters):
            one.grad = None

    def follow(self, module: nn.Module) -> None:
        """Stay the weights of `module` also where it is moved to another device, as torch's RNNs do with their own."""
        apply = module._apply

        def moved(change: Callable[[Tensor], Tensor], *args: Any, **options: Any) -> nn.Module:
            apply(change, *args, **options)
            self.vector.data = change(self.vector.data)
            self._link()
            return module

        module._apply = moved  # type: ignore[method-assign]

    def _link(self) -> None:
        for one, weight in zip(self._parameters, self.vector.detach().split(self._sizes), strict=True):
            one.data = weight.view_as(one)


class LoraOptimizer:
    """An optimizer of torch's kind on FlatParameters, with loss scaling, clipping and states to resume from."""

    def __init__(
        self,
        kind: str,
        flat: FlatParameters,
        optimizer: torch.optim.Optimizer,
        *,
        loss_scaling: bool = False,
    ):
        """kind: see Implementation. loss_scaling: for float16, whose small gradients would be lost."""
        self.kind = kind
        self.flat = flat
        self._optimizer = optimizer
        self._scaler = torch.amp.GradScaler(flat.vector.device.type, enabled=loss_scaling)

    @property
    def grad(self) -> Tensor:
        """The gradient of all weights, (weights,) float32, as scaled as the loss was."""
        assert self.flat.vector.grad is not None, "zero_grad() comes before"
        return self.flat.vector.grad

    def zero_grad(self) -> None:
        self.flat.zero_grad()

    def scale(self, loss: Tensor) -> Tensor:
        """What to call backward on."""
        return self._scaler.scale(loss)

    def step(self, lr: float, max_norm: float) -> Tensor:
        """Move the weights against their gradient, clipped to `max_norm` and released afterwards.

        Returns its norm before that, a float32 scalar on the device.
        """
        _set_lr(self._optimizer, lr)
        self._scaler.unscale_(self._optimizer)
        norm = nn.utils.clip_grad_norm_([self.flat.vector], max_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self.flat.release_grad()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """For `load_state_dict`: tensors on the CPU and numbers."""
        values = {name: one.cpu() if isinstance(one, Tensor) else one for name, one in self._values().items()}
        weights = self.flat.vector.numel()
        return {"kind": self.kind, "weights": weights, "values": values, "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> str | None:
        """Go on from a `state_dict`; of another kind of optimizer nothing is taken but the sentence that says so."""
        if (state.get("kind"), state.get("weights")) != (self.kind, self.flat.vector.numel()):
            saved = state.get("kind") or "an earlier version's"
            return f"the saved optimizer states are {saved}, this is {self.kind}: its running means begin anew"
        if not self._values():
            self.initialise()
        self._fill(state["values"])
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])
        return None

    def initialise(self) -> None:
        """Make the states, by a step at a learning rate of zero without a gradient, which is not counted.

        Raises whatever that step does: a library that can be imported need not work on this device.
        """
        self.flat.zero_grad()
        _set_lr(self._optimizer, 0.0)
        self._optimizer.step()
        self.flat.release_grad()
        self._fill({"step": 0})

    def _values(self) -> dict[str, Any]:
        """The states as plain tensors and numbers by name; a packed tensor as its parts."""
        values: dict[str, Any] = {}
        for name, state in self._optimizer.state[self.flat.vector].items():
            if hasattr(state, "__tensor_flatten__"):
                values |= {f"{name}.{part}": getattr(state, part) for part in state.__tensor_flatten__()[0]}
            else:
                values[name] = state
        return values

    @torch.no_grad()
    def _fill(self, values: dict[str, Any]) -> None:
        # Into the tensors that are there: the optimizer's own load_state_dict would put paged ones on the card.
        current = self._values()
        for name, value in values.items():
            if isinstance(current[name], Tensor):
                current[name].copy_(torch.as_tensor(value))
            else:
                self._optimizer.state[self.flat.vector][name] = value


def build_optimizer(
    config: OptimizerConfig, parameters: Sequence[nn.Parameter], *, loss_scaling: bool = False
) -> tuple[LoraOptimizer, tuple[str, ...]]:
    """The optimizer that `config` names, and sentences where another had to be taken. The parameters become views."""
    flat = FlatParameters(parameters)
    device, able = flat.vector.device, capabilities(flat.vector.device)
    options = {"lr": config.learning_rate, "betas": (config.beta1, config.beta2), "weight_decay": config.weight_decay}
    row, fallbacks, problems = optimizer_row(config.optimizer, cpu=able.backend == "cpu"), [], []
    if row.paged and not able.paged and row.fallback:
        fallbacks.append(f"optimizer states on {able.name} cannot be paged: they are kept there whole")
        row = OPTIMIZERS[row.fallback]
    for tried, implementation in _candidates(row, ("torch", *able.eight_bit)):
        own = implementation.library == "torch"
        try:
            optimizer_class = _import_class(implementation, tried.paged)
            fused = "fused" in inspect.signature(optimizer_class).parameters and device.type in ("cpu", "cuda")
            inner = optimizer_class([flat.vector], **options, **({"fused": True} if fused and own else {}))
            built = LoraOptimizer(implementation.kind, flat, inner, loss_scaling=loss_scaling)
            if not own:
                built.initialise()
        except Exception as error:
            if own:
                raise
            flat.release_grad()
            paged = ", paged" if tried.paged else ""
            problems.append(f"{implementation.kind}{paged}: {type(error).__name__}: {error}".splitlines()[0])
            continue
        if problems:
            larger = tried.state_bytes // row.state_bytes
            times = f", whose states need {larger} times the memory" if larger > 1 else ""
            fallbacks.append(f"{'; '.join(problems)}. Using {implementation.kind} instead{times}")
        return built, tuple(fallbacks)
    raise ValueError(f"no implementation of {row.name} is known for {able.name}")


def lr_multiplier(config: OptimizerConfig, step: int, steps: int) -> float:
    """Share of the peak learning rate that step number `step` (from 0) of `steps` is taken with, in (0, 1]."""
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return 1.0
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return 1 - done if config.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2


def _set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # torchao compiles its step, and would do so anew for every number
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def _candidates(row: Optimizer, libraries: Sequence[str]) -> Iterator[tuple[Optimizer, Implementation]]:
    """What to try, the best first: the row's implementations, then those of the rows to fall back to."""
    for library in libraries:
        yield from ((row, one) for one in row.implementations if one.library == library)
    if row.fallback:
        yield from _candidates(OPTIMIZERS[row.fallback], libraries)


def _import_class(implementation: Implementation, paged: bool) -> type[torch.optim.Optimizer]:
    """Raises whatever importing the library does."""
    problem: Exception | None = None
    for path in implementation.paths:
        module, _, name = path.rpartition(".")
        try:
            optimizer_class = getattr(importlib.import_module(module), name)
        except ImportError as error:
            problem = problem or error
            continue
        if implementation.library == "bitsandbytes" and not paged:
            return _without_wait(optimizer_class)
        return optimizer_class
    assert problem is not None
    raise problem


def _without_wait(optimizer: type) -> type:
    """bitsandbytes' own step waits for the device to finish; nothing here needs the numbers that early."""

    class WithoutWait(optimizer):
        @torch.no_grad()
        def step(self, closure: None = None) -> None:
            for group in self.param_groups:
                for parameter in group["params"]:
                    if not self.state[parameter]:
                        self.init_state(group, parameter, 0, 0)
                    self.update_step(group, parameter, 0, 0)

    return WithoutWait

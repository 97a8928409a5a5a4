"""Hooks of the training loop: what happens every so many steps. Held-out evaluation and checkpoints; images have a file
of their own, validation_images.py, as have the metrics of each step, metrics.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Protocol

import torch

from ..config.run_config import RunConfig
from ..distributed import World
from ..lora import adapter
from ..runs.run_folder import Run
from .checkpoint import RunFingerprint, TrainState, prune_best, save_best, save_checkpoint
from .early_stopping import chosen_error_warning, point_of
from .heldout_eval import HeldOut
from .learner import Learner
from .oom_recovery import is_oom


class Hook(Protocol):
    """Called after a step that is a multiple of `every`; never where that is 0."""

    every: int

    def __call__(self, state: TrainState) -> None: ...


def run_due(hooks: Iterable[Hook], state: TrainState) -> None:
    """Call each hook that is due after `state.step` steps, in their order."""
    for hook in hooks:
        if hook.every > 0 and state.step % hook.every == 0:
            hook(state)


class HeldoutEval:
    """Measures on the held-out pairs and extends the history; keeps the best weights, and warns of a risen error."""

    def __init__(
        self, run: Run, config: RunConfig, held_out: HeldOut, learner: Learner, device: torch.device, world: World
    ):
        self.every = config.watch.evaluate_every
        self._run = run
        self._config = config
        self._held_out = held_out
        self._learner = learner
        self._device = device
        self._world = world

    def __call__(self, state: TrainState) -> None:
        if not len(self._held_out):
            return
        learner = self._learner
        result = self._held_out.measure(learner.base, learner.unet, learner.objective, self._device, self._world)
        self._run.log("evaluation", step=state.step, **asdict(result))
        point = point_of({"event": "evaluation", "step": state.step, **asdict(result)})
        if point is None:
            return
        before, state.history = state.history, state.history.after(point)
        if self._world.is_main and self._config.watch.keep == "best" and state.history.best is point:
            save_best(self._run.state_folder, state.step, adapter.lora_state_dict(learner.unet))
        if (rise := before.chosen_error_rise(point)) and not _has_warned(self._run):
            text = chosen_error_warning(self._config.objective, *rise, point.agreement)
            self._run.log("warning", kind="harm", step=state.step, text=text)

    def out_of_patience(self, state: TrainState) -> bool:
        """Early stopping: whether the last `watch.patience` measurements brought nothing."""
        return self.every > 0 and state.history.out_of_patience(self._config.watch.patience)


class Checkpoint:
    """Saves the training state. It comes last of the hooks: a run killed in here evaluates again when it is resumed."""

    def __init__(
        self,
        run: Run,
        config: RunConfig,
        learner: Learner,
        fingerprint: RunFingerprint,
        world: World,
        flush_metrics: Callable[[], None],
    ):
        """flush_metrics: raises on numbers that are not finite, so that such a state is never saved."""
        self.every = config.watch.checkpoint_every
        self._run = run
        self._learner = learner
        self._fingerprint = fingerprint
        self._world = world
        self._flush_metrics = flush_metrics

    def __call__(self, state: TrainState) -> None:
        self._flush_metrics()
        if self._world.is_main:
            save_checkpoint(self._run.state_folder, state, self._learner.state_dict(), self._fingerprint)
            prune_best(self._run.state_folder, but=state.history.best.step if state.history.best else None)
        self._run.log("checkpoint", step=state.step)

    @contextmanager
    def save_on_oom(self, state: TrainState) -> Iterator[None]:
        """Save before an out-of-memory error leaves the `with`, unless it came from within an optimizer step.

        Not where several processes train: the others may have taken the step.
        """
        start = state.step
        try:
            yield
        except Exception as error:
            if is_oom(error) and not self._learner.in_optimizer_step and state.step > start and self._world.is_single:
                self(state)
            raise


def _has_warned(run: Run) -> bool:
    return any(event["event"] == "warning" and event.get("kind") == "harm" for event in run.events())

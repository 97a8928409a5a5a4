"""Hooks of the loop: which are due and in which order, and when an out-of-memory error saves first."""

from types import SimpleNamespace

import pytest
import torch
from mapo_studio.trainer.config.run_config import parse_config
from mapo_studio.trainer.distributed import SINGLE, World
from mapo_studio.trainer.runs.run_folder import Run
from mapo_studio.trainer.training.checkpoint import LearnerState, RunFingerprint, TrainState, latest_step
from mapo_studio.trainer.training.hooks import Checkpoint, run_due


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path, parse_config({"name": "cats", "base": "tiny", "data": {"pairs": "p"}}, ""))


def hook(called, name, every):
    call = type("Hook", (), {"__call__": lambda self, state: called.append((name, state.step)), "every": every})
    return call()


def test_hooks_are_called_in_their_order_where_they_are_due():
    called = []
    hooks = [hook(called, "evaluation", 2), hook(called, "images", 0), hook(called, "checkpoint", 3)]
    for step in range(1, 7):
        run_due(hooks, TrainState(step))
    assert called == [("evaluation", 2), ("checkpoint", 3), ("evaluation", 4), ("evaluation", 6), ("checkpoint", 6)]


def checkpoint_of(run, world=SINGLE, in_optimizer_step=False):
    learner = SimpleNamespace(
        in_optimizer_step=in_optimizer_step, state_dict=lambda: LearnerState({"a": torch.ones(2)}, {})
    )
    flushed = []
    hook = Checkpoint(run, run.config(), learner, RunFingerprint("b", "p"), world, lambda: flushed.append(True))
    return hook, flushed


def fails(hook, error, steps=1):
    def train():
        with hook.save_on_oom(state):
            state.step += steps
            raise error

    state = TrainState(step=4)
    with pytest.raises(type(error)):
        train()


def test_an_out_of_memory_error_saves_what_was_learned(run):
    hook, flushed = checkpoint_of(run)
    fails(hook, torch.OutOfMemoryError("Tried to allocate"))
    assert latest_step(run.state_folder) == 5
    assert flushed == [True], "numbers that are not finite are never saved"
    assert [(event["event"], event["step"]) for event in run.events()] == [("checkpoint", 5)]


@pytest.mark.parametrize(
    ("error", "steps", "how"),
    [
        (ValueError("another error"), 1, {}),
        (torch.OutOfMemoryError("before a step was taken"), 0, {}),
        (torch.OutOfMemoryError("within the optimizer"), 1, {"in_optimizer_step": True}),
        (torch.OutOfMemoryError("in one of two processes"), 1, {"world": World(0, 2)}),
    ],
    ids=lambda value: str(value) if isinstance(value, Exception) else "",
)
def test_any_other_error_saves_nothing(run, error, steps, how):
    hook, _ = checkpoint_of(run, **how)
    fails(hook, error, steps)
    assert latest_step(run.state_folder) is None


def test_only_the_main_process_writes(run):
    hook, _ = checkpoint_of(run, World(1, 2))
    hook(TrainState(3))
    assert latest_step(run.state_folder) is None

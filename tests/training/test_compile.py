"""Speed-ups: the same training, no waiting inside a step, and training goes on where one is not available."""

from __future__ import annotations

import pytest
import torch
from mapo_studio.trainer.config.run_config import TrainingConfig
from mapo_studio.trainer.latents.encode import load_text
from mapo_studio.trainer.lora import adapter
from mapo_studio.trainer.models.memory_saving import compile as speed
from mapo_studio.trainer.training.batches import BatchSettings, PairBatches
from mapo_studio.trainer.training.learner import Learner
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture
def batches(base, encoded):
    timesteps = base.schedule.timesteps
    return PairBatches(encoded.pairs, load_text(encoded.text("")), BatchSettings(2, timesteps, seed=0))


def learned(learner, batches, steps=3):
    numbers = [learner.train_step(step, [batches[2 * step], batches[2 * step + 1]]) for step in range(steps)]
    return torch.stack(numbers), adapter.lora_state_dict(learner.unet)


def apart(one, other):
    """How far two LoRAs are from each other, as a share of their length."""
    assert one.keys() == other.keys()
    one, other = (torch.cat([lora[key].flatten() for key in sorted(lora)]) for lora in (one, other))
    return float((one - other).norm() / other.norm())


class Waits(TorchDispatchMode):
    """Notes what would wait for a card: a tensor's number asked for, or its size a matter of its numbers."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in (
            "aten::_local_scalar_dense",
            "aten::nonzero",
            "aten::masked_select",
            "aten::is_nonzero",
        ):
            self.seen.append(func._schema.name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("precision", "objective", "optimizer"),
    [("bfloat16", "mapo", "adamw8bit"), ("float32", "dpo", "adamw")],
)
def test_a_step_waits_for_nothing_that_the_device_computes(settings, base, batches, precision, objective, optimizer):
    config = settings(
        training={"precision": precision, "gradient_checkpointing": "on"},
        objective={"kind": objective},
        optimization={"optimizer": optimizer},
    )
    learner, taken = Learner(config, base, CPU), [batches[0], batches[1]]
    with Waits() as waits:
        learner.train_step(0, taken)
        learner.train_step(1, taken)
    assert waits.seen == []


def test_waiting_would_be_seen():
    with Waits() as waits:
        float(torch.ones(1))
    assert waits.seen


def test_where_nothing_compiles_a_sentence_says_so(base, monkeypatch):
    monkeypatch.setattr(speed, "capabilities", lambda device: speed_of(device, compiles=False))
    said = speed.apply(base.load_unet(CPU, torch.float32), TrainingConfig(compile="on"), CPU)
    assert "not compiled" in said
    assert "cpu" in said


def test_a_compiler_that_fails_is_named_and_training_goes_on(settings, base, batches, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("InvalidCxxCompiler: no g++\nand a page of more")

    monkeypatch.setattr(torch, "compile", broken)
    learner = Learner(settings(training={"compile": "on"}), base, CPU)
    assert learner.fallbacks == (
        "the base is not compiled (RuntimeError: InvalidCxxCompiler: no g++); training goes on without, slower",
    )
    assert learned(learner, batches, steps=1)[0].isfinite().all()


def test_by_default_a_cpu_is_left_as_it_is(base):
    unet = base.load_unet(CPU, torch.float32)
    before = torch.get_float32_matmul_precision()
    assert speed.apply(unet, TrainingConfig(), CPU) is None
    assert torch.get_float32_matmul_precision() == before
    assert all(module._compiled_call_impl is None for module in unet.modules())


@pytest.mark.parametrize(
    ("passes", "weights", "compiled"), [((250, 4), 1, True), ((249, 4), 1, False), ((250, 4), 10**9, False)]
)
def test_by_itself_a_cpu_compiles_where_the_training_outlasts_the_compiler(
    base, monkeypatch, passes, weights, compiled
):
    monkeypatch.setattr(speed, "_WEIGHTS_THAT_PAY", weights)
    monkeypatch.setattr(speed, "_why_not_compiled", lambda device: None)
    unet = base.load_unet(CPU, torch.float32)
    assert speed.apply(unet, TrainingConfig(steps=passes[0], accumulation=passes[1]), CPU) is None
    assert any(module._compiled_call_impl is not None for module in unet.modules()) == compiled


def test_who_did_not_ask_for_a_compiler_is_not_told_that_there_is_none(base, monkeypatch):
    monkeypatch.setattr(speed, "_WEIGHTS_THAT_PAY", 1)
    monkeypatch.setattr(speed, "capabilities", lambda device: speed_of(device, compiles=False))
    assert speed.apply(base.load_unet(CPU, torch.float32), TrainingConfig(steps=5000), CPU) is None


def speed_of(device, **changes):
    from dataclasses import replace

    from mapo_studio.trainer.device import capabilities

    return replace(capabilities(device), **changes)


def test_compiled_blocks_learn_the_same_and_are_not_compiled_for_every_size(settings, base, batches):
    recomputing = {"gradient_checkpointing": "on"}
    sizes = {batches[number].images.latents[0].shape for number in range(6)}
    plain_numbers, plain = learned(Learner(settings(training=recomputing), base, CPU), batches)
    torch._dynamo.reset()
    counters.clear()
    learner = Learner(settings(training={**recomputing, "compile": "on"}), base, CPU)
    probed = counters["stats"]["unique_graphs"]
    numbers, lora = learned(learner, batches)
    graphs = counters["stats"]["unique_graphs"] - probed
    assert len(sizes) > 1
    assert learner.fallbacks == ()
    assert 1 <= graphs <= 8
    torch.testing.assert_close(numbers, plain_numbers, rtol=1e-3, atol=1e-4)
    assert apart(lora, plain) < 1e-2
    learned(learner, batches)
    assert counters["stats"]["unique_graphs"] == probed + graphs

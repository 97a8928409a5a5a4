"""Which optimizer is built, and what is said where another one had to be taken."""

import sys

import pytest
import torch
from mapo_studio.trainer.config import OptimizerConfig
from mapo_studio.trainer.optimizers import build_optimizer


@pytest.fixture
def parameters():
    return [torch.nn.Parameter(torch.zeros(64, 128))]


def test_eight_bit_states_are_really_kept_in_eight_bits(parameters):
    optimizer, note = build_optimizer(OptimizerConfig(optimizer="adamw8bit"), parameters)
    parameters[0].grad = torch.ones_like(parameters[0])
    optimizer.step()
    assert note is None
    assert optimizer.state[parameters[0]]["state1"].dtype == torch.uint8


def test_without_bitsandbytes_torchs_adamw_is_taken_and_said(parameters, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    optimizer, note = build_optimizer(OptimizerConfig(optimizer="adamw8bit"), parameters)
    assert type(optimizer) is torch.optim.AdamW
    assert "8-bit AdamW cannot be had" in note
    assert "\n" not in note


def test_on_a_cpu_auto_takes_the_faster_one_without_a_word(parameters):
    optimizer, note = build_optimizer(OptimizerConfig(), parameters)
    assert type(optimizer) is torch.optim.AdamW
    assert note is None


def test_settings_reach_the_optimizer(parameters):
    config = OptimizerConfig(optimizer="adamw", learning_rate=0.5, beta1=0.1, beta2=0.2, weight_decay=0.3)
    optimizer, _ = build_optimizer(config, parameters)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.5, (0.1, 0.2), 0.3)

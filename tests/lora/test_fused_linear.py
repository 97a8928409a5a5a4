"""A layer with a LoRA: the same answers and gradients as PEFT's own, with fewer copies."""

from __future__ import annotations

import pytest
import torch
from mapo_studio.trainer.lora.fused_linear import FusedLoraLinear, fuse
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

RANK = 4


def layer(dtype=torch.float32, dropout=0.0):
    """PEFT's layer of 24 -> 40 with a LoRA whose B is not zero; scale 1.5."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 40)).to(dtype).requires_grad_(False)
    config = LoraConfig(r=RANK, lora_alpha=6, lora_dropout=dropout, target_modules=["0"])
    made = inject_adapter_in_model(config, model)[0]
    assert type(made) is Linear
    for part in (made.lora_A, made.lora_B):
        part["default"].weight.data = torch.randn_like(part["default"].weight, dtype=torch.float32)
    return made


def answer(made, x, *, autocast=False, seed=1):
    """Output, and gradients by the input and both parts of the LoRA."""
    x = x.clone().requires_grad_(True)
    torch.manual_seed(seed)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = made(x)
    out.float().sin().sum().backward()
    weights = made.lora_A["default"].weight, made.lora_B["default"].weight
    gradients = [x.grad, *(weight.grad for weight in weights)]
    for weight in weights:
        weight.grad = None
    return out, *gradients


def as_lean(made):
    fuse(made)
    assert type(made) is FusedLoraLinear
    return made


@pytest.mark.parametrize("shape", [(3, 24), (2, 5, 24), (2, 3, 5, 24), (0, 24)])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_answers_and_gradients_are_those_of_peft(shape, dropout):
    x, made = torch.randn(shape).double(), layer(dropout=dropout).double()
    theirs = answer(made, x)
    for mine, other in zip(answer(as_lean(made), x), theirs, strict=True):
        assert mine.shape == other.shape
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("autocast", [True, False])
def test_in_half_precision_it_is_as_near_to_exact_as_peft_under_autocast(autocast):
    x, made = torch.randn(2, 64, 24), layer(torch.bfloat16)
    exact = answer(layer().double(), x.double())
    theirs = answer(made, x.bfloat16(), autocast=True)
    for true, one, other in zip(exact, answer(as_lean(made), x.bfloat16(), autocast=autocast), theirs, strict=True):
        assert one.dtype == other.dtype
        far, peft_far = ((got.double() - true).norm() / true.norm() for got in (one, other))
        assert far < max(1.2 * peft_far, 0.01)


def test_switched_off_it_is_the_base():
    x, made = torch.randn(5, 24), as_lean(layer())
    made.enable_adapters(False)
    assert torch.equal(made(x), made.base_layer(x))


def test_the_input_is_kept_once_for_all_layers_that_share_it():
    x = torch.randn(64, 24).bfloat16().requires_grad_(True)
    kept = []
    layers = [as_lean(layer(torch.bfloat16)) for _ in range(3)]
    seen = saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one)
    with seen, torch.autocast("cpu", torch.bfloat16):
        for made in layers:
            made(x)
    inputs = {one.untyped_storage().data_ptr() for one in kept if one.shape == x.shape}
    assert inputs == {x.untyped_storage().data_ptr()}


def test_a_layer_of_another_kind_is_left_alone():
    model = nn.Sequential(nn.Conv2d(4, 4, 1))
    made = inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"]), model)[0]
    kind = type(made)
    fuse(made)
    assert type(made) is kind

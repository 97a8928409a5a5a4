"""How does a LoRA get onto a UNet, and its weights off it again?"""

from __future__ import annotations

import math

import pytest
import torch
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.lora.adapter import LoraSettings, attach, disabled, load_lora_state_dict, lora_state_dict

pytestmark = pytest.mark.slow

FAMILIES = ["sdxl", "sd15"]
TARGETS = ["attention", "all"]
EVERY_SHAPE = [
    pytest.param(
        family, LoraSettings(rank, alpha, 0.0, targets, rslora), id=f"{family}-{targets}-{rank}-{alpha}-{rslora}"
    )
    for family in FAMILIES
    for targets in TARGETS
    for rank, alpha in [(1, None), (3, 1.5), (8, 8.0), (8, 20.0)]
    for rslora in [False, True]
]


@pytest.mark.parametrize(("family", "settings"), EVERY_SHAPE)
def test_lora_adds_scaled_product_of_its_two_matrices_to_each_target(family, settings, small_unet, answer, random_lora):
    unet, merged = small_unet(family), small_unet(family)
    attach(unet, settings, seed=0)
    lora = random_lora(unet)
    load_lora_state_dict(unet, lora)
    scale = (settings.alpha or settings.rank) / (math.sqrt(settings.rank) if settings.rslora else settings.rank)
    with torch.no_grad():
        for key, down in lora.items():
            if key.endswith(".lora_A.weight"):
                module = merged.get_submodule(key.removesuffix(".lora_A.weight"))
                up = lora[key.replace("lora_A", "lora_B")]
                module.weight += scale * (up.flatten(1) @ down.flatten(1)).view_as(module.weight)
        expected, base = answer(merged), answer(small_unet(family))
        torch.testing.assert_close(answer(unet), expected, rtol=1e-4, atol=1e-5)
    assert (expected - base).abs().max() > 1e-2, "the LoRA does too little for this test to notice a fault"


@pytest.mark.parametrize(("family", "targets", "modules"), [
    ("sdxl", "attention", 560), ("sdxl", "all", 722), ("sd15", "attention", 128), ("sd15", "all", 192),
])  # fmt: skip
def test_every_target_of_the_real_models_gets_a_lora(family, targets, modules, real_unet):
    unet = real_unet(family)
    parameters = attach(unet, LoraSettings(rank=1, targets=targets), seed=0)
    assert len(parameters) == 2 * modules
    assert {parameter.device.type for parameter in parameters} == {"meta"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", TARGETS)
def test_fresh_lora_changes_nothing(family, targets, small_unet, answer):
    unet = small_unet(family)
    before = answer(unet)
    attach(unet, LoraSettings(rank=4, targets=targets), seed=0)
    assert torch.equal(answer(unet), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_adapter_is_float32_and_the_base_frozen_whatever_the_base_dtype(dtype, family, small_unet, answer):
    unet = small_unet(family).to(dtype)
    parameters = attach(unet, LoraSettings(rank=4, targets="all"), seed=0)
    trainable = {id(parameter) for parameter in unet.parameters() if parameter.requires_grad}
    assert trainable == {id(parameter) for parameter in parameters}
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert all(p.dtype == dtype for p in unet.parameters() if id(p) not in trainable)
    assert answer(unet).dtype == dtype


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_every_adapter_weight_and_nothing_else(family, checkpointing, small_unet, answer, random_lora):
    unet = small_unet(family)
    parameters = attach(unet, LoraSettings(rank=2, targets="all"), seed=0)
    load_lora_state_dict(unet, random_lora(unet))
    unet.train()
    if checkpointing:
        unet.enable_gradient_checkpointing()
    answer(unet).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in parameters)
    assert sum(parameter.grad is not None for parameter in unet.parameters()) == len(parameters)


def test_first_weights_depend_on_the_seed_alone(small_unet):
    def first_weights(seed: int, noise: int, dtype: torch.dtype = torch.float32) -> dict:
        torch.manual_seed(noise)
        unet = small_unet("sdxl").to(dtype)
        attach(unet, LoraSettings(rank=4), seed)
        return lora_state_dict(unet)

    one, again, half, other = (
        first_weights(5, noise=1), first_weights(5, noise=2), first_weights(5, 3, torch.bfloat16), first_weights(6, 1)
    )  # fmt: skip
    assert all(torch.equal(one[key], again[key]) and torch.equal(one[key], half[key]) for key in one)
    assert all(not torch.equal(one[key], other[key]) for key in one if "lora_A" in key)


def test_attaching_leaves_the_global_random_state_alone(small_unet):
    unet = small_unet("sd15")
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    attach(unet, LoraSettings(rank=4, targets="all"), seed=9)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("rank", [2, 16])
def test_first_weights_are_gaussian_of_width_one_over_rank_and_zero(rank, small_unet):
    unet = small_unet("sdxl")
    attach(unet, LoraSettings(rank=rank, targets="all"), seed=0)
    down = torch.cat([weight.flatten() for key, weight in lora_state_dict(unet).items() if "lora_A" in key])
    assert down.std().item() == pytest.approx(1 / rank, rel=0.05)
    assert all(not weight.any() for key, weight in lora_state_dict(unet).items() if "lora_B" in key)


@pytest.mark.parametrize("family", FAMILIES)
def test_disabled_lora_is_the_base_exactly_and_comes_back(family, small_unet, answer, random_lora):
    unet = small_unet(family)
    base = answer(unet)
    parameters = attach(unet, LoraSettings(rank=2, targets="all"), seed=0)
    load_lora_state_dict(unet, random_lora(unet))
    trained = answer(unet)
    assert not torch.allclose(trained, base, atol=1e-2)
    with disabled(unet):
        assert torch.equal(answer(unet), base)
        with disabled(unet):
            pass
        assert torch.equal(answer(unet), base), "leaving an inner block must not end the outer one"
    assert torch.equal(answer(unet), trained)
    assert all(parameter.requires_grad for parameter in parameters)


def test_lora_comes_back_after_an_error_inside_disabled(small_unet, answer, random_lora):
    unet = small_unet("sdxl")
    attach(unet, LoraSettings(rank=2), seed=0)
    load_lora_state_dict(unet, random_lora(unet))
    trained = answer(unet)
    with pytest.raises(KeyboardInterrupt), disabled(unet):
        raise KeyboardInterrupt
    assert torch.equal(answer(unet), trained)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_reference_pass_between_forward_and_backward_leaves_gradients_alone(
    checkpointing, small_unet, answer, random_lora
):
    def gradients(with_reference: bool) -> list:
        unet = small_unet("sdxl")
        parameters = attach(unet, LoraSettings(rank=2), seed=0)
        load_lora_state_dict(unet, random_lora(unet))
        unet.train()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        loss = answer(unet).square().mean()
        if with_reference:
            with disabled(unet), torch.no_grad():
                answer(unet)
        loss.backward()
        return [parameter.grad for parameter in parameters]

    for alone, beside in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(alone, beside)


@pytest.mark.parametrize(("family", "settings"), EVERY_SHAPE)
def test_state_goes_onto_another_model_exactly(family, settings, small_unet, answer, random_lora):
    one, two = small_unet(family), small_unet(family)
    attach(one, settings, seed=0)
    attach(two, settings, seed=1)
    load_lora_state_dict(one, random_lora(one))
    load_lora_state_dict(two, lora_state_dict(one))
    assert torch.equal(answer(one), answer(two))
    assert all(torch.equal(weight, lora_state_dict(two)[key]) for key, weight in random_lora(one).items())


def test_state_is_a_snapshot(small_unet):
    unet = small_unet("sdxl")
    parameters = attach(unet, LoraSettings(rank=2), seed=0)
    before = lora_state_dict(unet)
    kept = {key: weight.clone() for key, weight in before.items()}
    with torch.no_grad():
        for parameter in parameters:
            parameter += 1
    assert all(torch.equal(before[key], kept[key]) for key in kept)


def test_state_names_modules_alike_under_torch_compile(small_unet):
    unet = small_unet("sdxl")
    attach(unet, LoraSettings(rank=2), seed=0)
    plain = list(lora_state_dict(unet))
    for index, block in enumerate(unet.down_blocks):
        unet.down_blocks[index] = torch.compile(block)
    assert list(lora_state_dict(torch.compile(unet))) == plain


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda lora: lora.pop(next(iter(lora))), "lacks .*to_q"),
        (lambda lora: lora.update({"text.lora_A.weight": torch.zeros(1)}), "has text.lora_A.weight"),
        (lambda lora: lora.update({list(lora)[-1]: torch.zeros(3, 3)}), r"is \(3, 3\)"),
    ],
)
def test_state_that_does_not_fit_is_refused_whole(spoil, says, small_unet, random_lora):
    unet = small_unet("sdxl")
    attach(unet, LoraSettings(rank=2), seed=0)
    before, lora = lora_state_dict(unet), random_lora(unet)
    spoil(lora)
    with pytest.raises(UserError, match=says):
        load_lora_state_dict(unet, lora)
    assert all(torch.equal(weight, before[key]) for key, weight in lora_state_dict(unet).items())


def test_dropout_acts_in_training_mode_only(small_unet, answer, random_lora):
    unet = small_unet("sd15")
    attach(unet, LoraSettings(rank=2, dropout=0.5, targets="all"), seed=0)
    load_lora_state_dict(unet, random_lora(unet))
    assert torch.equal(answer(unet), answer(unet))
    unet.train()
    assert not torch.equal(answer(unet), answer(unet))


@pytest.mark.parametrize(
    "wrong",
    [{"rank": 0}, {"rank": -4}, {"rank": 2.5}, {"rank": True}, {"alpha": 0.0}, {"alpha": math.nan}, {"alpha": -1.0},
     {"dropout": 1.0}, {"dropout": -0.1}, {"targets": "conv"}],
)  # fmt: skip
def test_settings_that_describe_no_lora_are_refused_by_name(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        LoraSettings(**wrong)


def test_model_without_target_modules_is_refused():
    with pytest.raises(UserError, match="none of the modules"):
        attach(torch.nn.Sequential(torch.nn.Linear(2, 2)), LoraSettings(), seed=0)


def test_a_model_carries_one_lora_at_most_and_state_needs_one(small_unet):
    unet = small_unet("sd15")
    with pytest.raises(ValueError, match="no LoRA"):
        lora_state_dict(unet)
    attach(unet, LoraSettings(), seed=0)
    with pytest.raises(ValueError, match="already"):
        attach(unet, LoraSettings(), seed=0)

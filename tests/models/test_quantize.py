"""Is a UNet in fewer bits as small as it says, and nearly the same?"""

from __future__ import annotations

import sys

import pytest
import torch
from diffusers import UNet2DConditionModel
from mapo_studio.tests.simulated_devices import pretend
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.lora import adapter
from mapo_studio.trainer.lora.adapter import LoraSettings
from mapo_studio.trainer.models.base_model import compute_dtype
from mapo_studio.trainer.models.memory_saving.quantize import check, load_weight, to_quantized_empty
from torch._subclasses.fake_tensor import FakeTensorMode

pytestmark = pytest.mark.slow

CPU, META = torch.device("cpu"), torch.device("meta")
FAMILIES = ["sdxl", "sd15"]
HOW = ["int8", "nf4", "fp8"]


def bare(config):
    with META:
        return UNet2DConditionModel.from_config(config)


@pytest.fixture(scope="session")
def quantized(small_unet):
    """quantized(family, how, dtype=float32, seed=0): `small_unet` in fewer bits."""

    def make(family, how, dtype=torch.float32, seed=0):
        whole = small_unet(family, seed)
        unet = to_quantized_empty(bare(whole.config), how, dtype, CPU)
        for name, weight in whole.state_dict().items():
            load_weight(unet, name, weight)
        return unet

    return make


def storages(unet):
    return {
        name: (tuple(one.shape), one.dtype, one.untyped_storage().nbytes()) for name, one in unet.named_parameters()
    }


@pytest.mark.parametrize("how", ["none", *HOW])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_shell_without_numbers_has_the_bytes_of_the_real_unet(family, how, quantized):
    unet = quantized(family, how, torch.bfloat16)
    config = unet.config
    with FakeTensorMode():
        on_a_card = to_quantized_empty(bare(config), how, torch.bfloat16, torch.device("cuda"))
    assert {one.device.type for one in on_a_card.parameters()} == {"cuda"}
    for other in (on_a_card, to_quantized_empty(bare(config), how, torch.bfloat16, META)):
        assert storages(other) == storages(unet)
        assert not other.training
        assert not any(one.requires_grad for one in other.parameters())


def test_nothing_is_kept_beside_the_storages_of_the_shell(quantized, small_unet):
    # A weight that is packed by other rules than those of the model is refused.
    unet = quantized("sdxl", "nf4")
    layer = unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
    with pytest.raises(ValueError, match="packed as"):
        layer.load_weight(torch.zeros(2 * layer.out_features, layer.in_features))


@pytest.mark.parametrize(("how", "most"), [("int8", 0.03), ("fp8", 0.1), ("nf4", 0.2)])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_is_nearly_that_of_the_whole_unet(family, how, most, quantized, small_unet, answer):
    with torch.no_grad():
        expected, found = answer(small_unet(family)), answer(quantized(family, how))
    error = (found - expected).norm() / expected.norm()
    assert 0 < error < most


@pytest.mark.parametrize("family", FAMILIES)
def test_unquantized_is_the_whole_unet_exactly(family, quantized, small_unet, answer):
    assert torch.equal(answer(quantized(family, "none")), answer(small_unet(family)))


def unpacked(unet, small_unet, family):
    """The whole UNet of the weights that `unet` stands for."""
    whole = small_unet(family)
    with torch.no_grad():
        for name, module in unet.named_modules():
            if getattr(module, "packing", None) is not None:
                weight = module.packing.unpack(module._parts(), module.shape, torch.float32)
                whole.get_submodule(name).weight.copy_(weight)
    return whole


def learning(unet, random_lora, dropout=0.0):
    parameters = adapter.attach(unet, LoraSettings(rank=2, targets="all", dropout=dropout), seed=0)
    adapter.load_lora_state_dict(unet, random_lora(unet))
    return parameters


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_and_gradients_are_those_of_the_unpacked_weights(
    family, how, checkpointing, quantized, small_unet, answer, random_lora
):
    unet = quantized(family, how)
    whole = unpacked(unet, small_unet, family)
    found = []
    for one in (unet, whole):
        parameters = learning(one, random_lora)
        assert {parameter.dtype for parameter in parameters} == {torch.float32}
        one.train()
        if checkpointing:
            one.enable_gradient_checkpointing()
        said = answer(one)
        found.append((said, torch.autograd.grad(said.square().mean(), parameters)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    for gradient, expected in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("how", "least"), [("int8", 0.995), ("fp8", 0.98), ("nf4", 0.95)])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_points_where_the_whole_unets_does(family, how, least, quantized, small_unet, answer, random_lora):
    directions = []
    for unet in (quantized(family, how), small_unet(family)):
        parameters = learning(unet, random_lora)
        gradients = torch.autograd.grad(answer(unet).square().mean(), parameters)
        directions.append(torch.cat([gradient.flatten() for gradient in gradients]))
    assert torch.cosine_similarity(*directions, dim=0) > least


@pytest.mark.parametrize("how", HOW)
def test_autograd_keeps_packed_weights_only(how, quantized, answer, random_lora):
    unet = quantized("sdxl", how)
    learning(unet, random_lora)
    layers = [module for module in unet.modules() if getattr(module, "packing", None) is not None]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        answer(unet)
    found = 0
    for layer in layers:
        parts = layer._parts()
        shapes = (layer.shape, layer.shape[::-1])
        alike = [one for one in kept if one.dtype == torch.float32 and tuple(one.shape) in shapes]
        weight = layer.packing.unpack(parts, layer.shape, torch.float32)
        found += any(one.data_ptr() == parts[0].data_ptr() for one in kept)
        assert not any(torch.equal(one, weight) or torch.equal(one, weight.T) for one in alike if one.ndim == 2)
        assert not any(torch.equal(one, weight) for one in alike if one.ndim == 4)
    assert found > len(layers) / 2, "the packed weights were not kept, so this test sees nothing"


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_goes_on_and_off_as_on_a_whole_unet(family, how, quantized, small_unet, answer, random_lora):
    unet, whole = quantized(family, how), small_unet(family)
    with torch.no_grad():
        base = answer(unet)
        parameters = adapter.attach(unet, LoraSettings(rank=2, targets="all"), seed=3)
        assert torch.equal(answer(unet), base)
        adapter.attach(whole, LoraSettings(rank=2, targets="all"), seed=3)
        fresh, expected = adapter.lora_state_dict(unet), adapter.lora_state_dict(whole)
        assert list(fresh) == list(expected)
        assert all(torch.equal(fresh[key], expected[key]) for key in fresh)
        adapter.load_lora_state_dict(unet, random_lora(unet))
        trained = answer(unet)
        assert not torch.allclose(trained, base, atol=1e-2)
        with adapter.disabled(unet):
            assert torch.equal(answer(unet), base)
        assert torch.equal(answer(unet), trained)
        assert {id(one) for one in unet.parameters() if one.requires_grad} == set(map(id, parameters))
        adapter.detach(unet)
        assert torch.equal(answer(unet), base)


def test_dropout_acts_in_training_mode_only(quantized, answer, random_lora):
    unet = quantized("sdxl", "nf4")
    learning(unet, random_lora, dropout=0.5)
    assert torch.equal(answer(unet), answer(unet))
    unet.train()
    assert not torch.equal(answer(unet), answer(unet))


@pytest.mark.parametrize("how", HOW)
def test_a_unet_that_was_moved_answers_as_before(how, quantized, answer):
    unet = quantized("sdxl", how)
    before = answer(unet)
    old = [part.data for part in unet.parameters()]
    unet._apply(torch.clone)  # what Module.to does with another device
    for part in old:
        part.zero_()  # and what was left behind is not used any more
    assert torch.equal(answer(unet), before)


@pytest.mark.parametrize("how", HOW)
def test_what_moves_with_the_unet_is_all_there_is(how, quantized):
    for module in quantized("sdxl", how).modules():
        assert [name for name, value in vars(module).items() if isinstance(value, torch.Tensor)] == []


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_can_be_done_to_tensors_without_numbers(family, how, small_unet):
    unet = to_quantized_empty(bare(small_unet(family).config), how, torch.bfloat16, META)
    parameters = adapter.attach(unet, LoraSettings(rank=2, targets="all"), seed=0)
    unet.train()
    unet.enable_gradient_checkpointing()
    with META:
        noisy, text, time = torch.zeros(2, 4, 8, 8), torch.zeros(2, 5, 24), torch.zeros(2)
        added = {"text_embeds": torch.zeros(2, 24), "time_ids": torch.zeros(2, 6)}
    half = {name: value.bfloat16() for name, value in added.items()}
    said = unet(noisy.bfloat16(), time, text.bfloat16(), added_cond_kwargs=half).sample
    said.float().square().mean().backward()
    assert all(parameter.grad.shape == parameter.shape for parameter in parameters)


@pytest.mark.parametrize("how", HOW)
def test_a_block_compiles_to_one_graph_with_the_same_gradients(how, quantized, random_lora):
    unet = quantized("sdxl", how)
    parameters = learning(unet, random_lora)
    unet.train()
    block = unet.get_submodule("mid_block.attentions.0.transformer_blocks.0")
    mine = [one for one in block.parameters() if one.requires_grad]
    assert 0 < len(mine) < len(parameters)
    x, text = torch.randn(2, 16, 32, requires_grad=True), torch.randn(2, 5, 24)
    found = []
    for call in (block, torch.compile(block, backend="aot_eager", fullgraph=True)):
        said = call(x, encoder_hidden_states=text)
        found.append([said, *torch.autograd.grad(said.square().mean(), [x, *mine])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


class Wrapped(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module


@pytest.mark.parametrize("how", ["none", *HOW])
def test_the_compute_dtype_is_known_whatever_is_stored_or_wrapped(how, quantized, random_lora):
    unet = quantized("sd15", how, torch.bfloat16)
    learning(unet, random_lora)
    assert compute_dtype(unet) == compute_dtype(Wrapped(unet)) == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "lacking", "how", "says"),
    [
        (
            "RTX 3060",
            ("bitsandbytes",),
            "nf4",
            "or bitsandbytes is not installed .* use --quantize int8 or --quantize fp8 or",
        ),
        ("Mac", (), "nf4", "on the GPU of this Mac.*: use --quantize int8 or --quantize none"),
        ("Mac", (), "fp8", "on the GPU of this Mac: use --quantize int8 or --quantize none"),
    ],
)
def test_what_a_device_cannot_store_is_refused_with_what_it_can(monkeypatch, name, lacking, how, says):
    device = pretend(monkeypatch, name, lacking=lacking)
    with pytest.raises(UserError, match=says):
        check(how, device)
    check("none", device)
    check("int8", device)


@pytest.mark.parametrize("how", ["none", "int8", "fp8"])
def test_only_nf4_needs_bitsandbytes(how, small_unet, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    check(how, CPU)
    to_quantized_empty(bare(small_unet("sd15").config), how, torch.float32, CPU)

"""Is a UNet in fewer bits as small as it says, and nearly the same?"""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from mapo_studio.trainer.quantize import fill, shell
from torch._subclasses.fake_tensor import FakeTensorMode

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
        unet = shell(bare(whole.config), how, dtype, CPU)
        for name, weight in whole.state_dict().items():
            fill(unet, name, weight)
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
        on_a_card = shell(bare(config), how, torch.bfloat16, torch.device("cuda"))
    assert {one.device.type for one in on_a_card.parameters()} == {"cuda"}
    for other in (on_a_card, shell(bare(config), how, torch.bfloat16, META)):
        assert storages(other) == storages(unet)
        assert not other.training
        assert not any(one.requires_grad for one in other.parameters())


def test_nothing_is_kept_beside_the_storages_of_the_shell(quantized, small_unet):
    # A weight that is packed by other rules than those of the shell is refused.
    unet = quantized("sdxl", "nf4")
    layer = unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
    with pytest.raises(ValueError, match="packed as"):
        layer.fill(torch.zeros(2 * layer.out_features, layer.in_features))


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

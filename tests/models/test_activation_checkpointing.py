"""What is kept for the backward pass, and where: the same gradient, from less."""

from __future__ import annotations

import pytest
import torch
from mapo_studio.trainer.lora import adapter
from mapo_studio.trainer.models.memory_saving import activation_checkpointing, low_memory_blocks
from torch import nn

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
WAYS = ("off", "on", "offload")


@pytest.fixture
def in_pieces(monkeypatch):
    """Everything is small here: let a few numbers be too many at once, and everything worth moving."""
    monkeypatch.setattr(low_memory_blocks, "_PIECE", 100)
    monkeypatch.setattr(activation_checkpointing, "_MIN_NUMBERS", 1)


@pytest.fixture
def learning(small_unet, random_lora):
    """learning(family, how, **lora): a UNet in training mode with a LoRA that is not zero, as the learner makes it."""

    def make(family: str, how: str, **lora) -> nn.Module:
        unet = small_unet(family)
        activation_checkpointing.apply(unet, how, CPU)
        adapter.attach(unet, adapter.LoraSettings(rank=4, **lora), seed=0)
        adapter.load_lora_state_dict(unet, random_lora(unet))
        return unet.train()

    return make


def ask(unet: nn.Module, side: tuple[int, int] = (8, 8), pictures: int = 2, dtype=torch.float32) -> torch.Tensor:
    generator, config = torch.Generator().manual_seed(1), unet.config
    noisy = torch.randn(pictures, 4, *side, generator=generator).to(dtype)
    text = torch.randn(pictures, 5, config.cross_attention_dim, generator=generator).to(dtype)
    added = None
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        ids = torch.tensor([[64.0, 48, 0, 8, 64, 64]] * pictures)
        added = {"text_embeds": torch.randn(pictures, pooled, generator=generator).to(dtype), "time_ids": ids}
    return unet(noisy, torch.tensor([300, 700, 20][:pictures]), text, added_cond_kwargs=added).sample


def gradient(unet: nn.Module, **question) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)  # of dropout
    answer = ask(unet, **question)
    answer.square().mean().backward()
    return answer.detach(), torch.cat([p.grad.flatten() for p in unet.parameters() if p.requires_grad])


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("side", [(8, 8), (7, 10)])  # odd: the way up is not twice the way down
@pytest.mark.parametrize("lora", [{"targets": "attention"}, {"targets": "all", "dropout": 0.3}])
def test_every_way_answers_and_learns_the_same(learning, in_pieces, family, side, lora):
    seen = {how: gradient(learning(family, how, **lora), side=side, pictures=3) for how in WAYS}
    answer, plain = seen["off"]
    assert plain.norm() > 0
    for how in ("on", "offload"):
        assert torch.allclose(seen[how][0], answer, atol=1e-5)
        assert (seen[how][1] - plain).norm() < 1e-5 * plain.norm()
    assert torch.equal(seen["offload"][1], seen["on"][1])


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_in_half_precision_the_lean_blocks_are_no_further_from_the_truth(learning, family):
    truth = gradient(learning(family, "off"))[1]
    far = {}
    for how in ("off", "on"):
        unet = learning(family, how)
        with torch.autocast("cpu", torch.bfloat16):
            far[how] = (gradient(unet)[1] - truth).norm() / truth.norm()
    assert far["on"] < 1.5 * far["off"]


def test_what_is_checkpointed_keeps_a_fraction(learning, monkeypatch):
    kept = {how: bytes_kept(learning("sdxl", how)) for how in ("off", "on")}
    assert kept["on"] < kept["off"] / 4


def test_what_is_offloaded_leaves_nothing_large_on_the_device(learning, in_pieces, monkeypatch):
    moved = []
    original = activation_checkpointing.OffloadedTensor
    monkeypatch.setattr(
        activation_checkpointing, "OffloadedTensor", lambda tensor, *how: moved.append(tensor) or original(tensor, *how)
    )
    ask(learning("sdxl", "offload"), side=(16, 16))
    inputs = {tuple(tensor.shape) for tensor in moved}
    assert {(2, 64, 32), (2, 32, 8, 8), (2, 16, 16, 16)} <= inputs  # of a transformer block, and of residual blocks


def test_an_offloaded_tensor_does_not_change_with_the_one_it_was_made_of():
    offload = activation_checkpointing.CpuOffload(CPU)
    tensor = torch.randn(600, 600)
    numbers = tensor.clone()
    kept = offload.pack(tensor)
    tensor.zero_()
    assert torch.equal(offload.unpack(kept), numbers)


def test_weights_and_what_is_small_stay_where_they_are():
    offload = activation_checkpointing.CpuOffload(CPU)
    weight = nn.Parameter(torch.randn(600, 600))
    for tensor in (weight, weight.t(), torch.randn(3)):
        assert offload.pack(tensor) is tensor


@pytest.mark.parametrize("how", ["on", "offload"])
def test_an_error_in_the_forward_pass_leaves_no_hooks_behind(learning, how):
    unet = learning("sd15", how)
    with pytest.raises(RuntimeError, match="channels"):
        unet(torch.zeros(1, 3, 8, 8), torch.tensor([1]), torch.zeros(1, 5, 24))
    saved = torch.nn.functional.mse_loss(torch.ones(1000, 600, requires_grad=True), torch.zeros(1000, 600))
    assert isinstance(saved.grad_fn._saved_self, torch.Tensor)
    assert saved.grad_fn._saved_self.data_ptr() != 0


def test_auto_keeps_everything_on_a_cpu(small_unet):
    unet = small_unet("sdxl")
    activation_checkpointing.apply(unet, "auto", CPU)
    assert not unet.is_gradient_checkpointing
    activation_checkpointing.apply(unet, "auto", torch.device("cuda"))
    assert unet.is_gradient_checkpointing


def bytes_kept(unet: nn.Module) -> int:
    """Of what autograd holds for the backward pass beside weights, each storage once."""
    weights = {p.untyped_storage().data_ptr() for p in unet.parameters()}
    storages: dict[int, int] = {}

    def note(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        answer = ask(unet, side=(16, 16))
    assert answer.requires_grad
    return sum(size for place, size in storages.items() if place not in weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lean_vae_says_the_same(tmp_path, monkeypatch, dtype):
    from mapo_studio.tests.tiny_models import _vae, scatter

    monkeypatch.setattr(low_memory_blocks, "_PIECE", 100)
    torch.manual_seed(0)
    vae = _vae()
    scatter(vae)
    vae.to(dtype)
    pixels, latents = torch.randn(2, 3, 32, 24).to(dtype), torch.randn(2, 4, 8, 6).to(dtype)
    with torch.inference_mode():
        plain = vae.encode(pixels).latent_dist.mean, vae.decode(latents).sample
        low_memory_blocks.use_low_memory_blocks(vae)
        lean = vae.encode(pixels).latent_dist.mean, vae.decode(latents).sample
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    for ours, theirs in zip(lean, plain, strict=True):
        assert ours.dtype == dtype
        assert (ours - theirs).float().norm() < tolerance * theirs.float().norm()

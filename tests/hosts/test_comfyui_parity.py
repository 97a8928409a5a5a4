"""Does ComfyUI paint with our LoRA file what diffusers paints with our adapter? The same latents, number by number."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from mapo_studio.tests.hosts.prompts import painting
from mapo_studio.trainer.images.crop import SizeConditioning
from mapo_studio.trainer.lora.adapter import attach
from mapo_studio.trainer.lora.file import read_lora
from mapo_studio.trainer.models.open import open_base
from mapo_studio.trainer.sampling.sampler import set_lora
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

CAPTION, SEED, PICTURES, STEPS, GUIDANCE = "a green triangle at the top left", 5, 2, 4, 3.0
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def name_in_comfyui(server, tiny_lora) -> str:
    """The LoRA's name in ComfyUI's list, put there while it runs."""
    folder = server.folder / "models" / "loras"
    folder.mkdir(exist_ok=True)
    shutil.copy(tiny_lora, folder / "parity.safetensors")
    return "parity.safetensors"


@pytest.fixture(scope="module")
def bare(server) -> torch.Tensor:
    return in_comfyui(server, {})


def in_comfyui(server, nodes: dict) -> torch.Tensor:
    """The latents that ComfyUI paints, as the UNet sees them; `nodes` come between model and sampler, "worn" last."""
    graph = painting(CAPTION, seed=SEED, pictures=PICTURES, steps=STEPS, guidance=GUIDANCE)
    graph.update(nodes)
    if nodes:
        graph["paint"]["inputs"]["model"] = ["worn", 0]
    graph["save"] = {"class_type": "SaveLatent", "inputs": {"samples": ["paint", 0], "filename_prefix": "parity"}}
    [shown] = server.run(graph)["outputs"]["save"]["latents"]
    saved = load_file(server.folder / "output" / shown["subfolder"] / shown["filename"])
    return saved["latent_tensor"] * open_base("tiny").load_vae(CPU).config.scaling_factor


@torch.no_grad()
def in_diffusers(lora: Path | None = None, strength: float = 1.0) -> torch.Tensor:
    """The latents of diffusers' Euler sampler, begun at the noise that ComfyUI draws for the seed."""
    base = open_base("tiny")
    unet = base.load_unet(CPU, torch.float32)
    if lora:
        found = read_lora(lora)
        attach(unet, found.settings, seed=0)
        set_lora(unet, found, strength)
    wanted, against = base.load_text(CPU, torch.float32)([CAPTION, ""])
    text = {name: torch.stack([against[name]] * PICTURES + [wanted[name]] * PICTURES) for name in wanted}
    framing = torch.tensor([SizeConditioning(64, 64, 0, 0, 64, 64).as_list()] * 2 * PICTURES)
    # ComfyUI's scheduler "normal": evenly from the last timestep to the first.
    sampler = EulerDiscreteScheduler.from_config(base.scheduler_config, timestep_spacing="linspace")
    sampler.set_timesteps(STEPS)
    noise = torch.randn(PICTURES, 4, 16, 16, generator=torch.Generator().manual_seed(SEED))
    latents = noise * (1 + sampler.sigmas[0] ** 2).sqrt()
    for timestep in sampler.timesteps:
        noisy = sampler.scale_model_input(latents, timestep)
        said = base.predict(unet, torch.cat([noisy, noisy]), timestep.repeat(2 * PICTURES), text, framing)
        without, with_text = said.chunk(2)
        latents = sampler.step(without + GUIDANCE * (with_text - without), timestep, latents).prev_sample
    return latents


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


def load_lora(name: str, strength: float) -> dict:
    inputs = {"model": ["load", 0], "lora_name": name, "strength": strength, "schedule": "constant", "power": 1.0}
    return {"worn": {"class_type": "MaPOLoadLoRA", "inputs": inputs}}


def test_without_a_lora_both_paint_the_same_latents(bare):
    assert distance(bare, in_diffusers()) < 1e-3


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_comfyuis_own_loader_makes_of_our_file_what_the_adapter_is_in_diffusers(
    server, bare, name_in_comfyui, tiny_lora, strength
):
    inputs = {"model": ["load", 0], "lora_name": name_in_comfyui, "strength_model": strength}
    worn = in_comfyui(server, {"worn": {"class_type": "LoraLoaderModelOnly", "inputs": inputs}})
    assert distance(worn, in_diffusers(tiny_lora, strength)) < 1e-3
    assert distance(worn, bare) > 0.05, "the LoRA does too little for this test to notice a fault"


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_our_loader_does_too(server, bare, name_in_comfyui, tiny_lora, strength):
    worn = in_comfyui(server, load_lora(name_in_comfyui, strength))
    assert distance(worn, in_diffusers(tiny_lora, strength)) < 1e-3
    assert distance(worn, bare) > 0.05


def test_a_path_to_the_file_is_as_good_as_its_name(server, name_in_comfyui, tiny_lora):
    nodes = load_lora("none", 1.0)
    path = server.folder / "models" / "loras" / name_in_comfyui
    nodes["path"] = {"class_type": "PrimitiveString", "inputs": {"value": str(path)}}
    nodes["worn"]["inputs"]["lora_path"] = ["path", 0]
    assert distance(in_comfyui(server, nodes), in_diffusers(tiny_lora)) < 1e-3


def test_at_strength_zero_and_with_none_the_base_paints(server, bare, name_in_comfyui):
    assert torch.equal(in_comfyui(server, load_lora(name_in_comfyui, 0.0)), bare)
    assert torch.equal(in_comfyui(server, load_lora("none", 1.0)), bare)

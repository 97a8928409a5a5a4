"""Does the real ComfyUI load our LoRA files, all of them, and paint as the trainer does?"""

from __future__ import annotations

import re
from copy import deepcopy

import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from mapo_studio.trainer.lora.adapter import LoraSettings, attach, load_lora_state_dict
from mapo_studio.trainer.lora.file import write_lora

pytestmark = pytest.mark.slow

# The published architectures with all their blocks, 32 channels wide: the same as SMALL_UNETS of lora_in_comfyui.py.
SMALL_UNETS = {
    "sdxl": {
        "block_out_channels": (32, 64, 128),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (2, 4, 8),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 32 + 6 * 256,
    },
    "sd15": {"block_out_channels": (32, 64, 128, 128), "attention_head_dim": 8},
}
SETTINGS = [
    LoraSettings(4, targets="all"),
    LoraSettings(4, 7.0, targets="all"),
    LoraSettings(3, 5.0, targets="all", rslora=True),
    LoraSettings(8, 2.0, targets="attention"),
]
MODULES = {"sdxl": {"attention": 560, "all": 722}, "sd15": {"attention": 128, "all": 192}}


@pytest.mark.parametrize(("family", "recognised"), [("sdxl", "SDXL"), ("sd15", "SD15")])
def test_comfyui_maps_every_module_of_the_real_models_with_no_key_left_over(
    family, recognised, tmp_path, real_unet, random_lora, in_comfyui
):
    shapes = {key: list(weight.shape) for key, weight in real_unet(family).state_dict().items()}
    paths = []
    for targets in MODULES[family]:
        unet, settings = real_unet(family), LoraSettings(2, 3.0, targets=targets)
        attach(unet, settings, seed=0)
        paths.append(write_lora(tmp_path / f"{targets}.safetensors", random_lora(unet), settings, family))
    paths.append(tmp_path / "unknown.safetensors")
    safetensors.torch.save_file({"lora_unet_mid_block_attentions_0_nothing.alpha": torch.tensor(1.0)}, paths[-1])
    answer = in_comfyui("lora_in_comfyui.py", {"do": "map", "shapes": shapes, "loras": [str(path) for path in paths]})
    assert answer["recognised"] == recognised
    *ours, unknown = answer["loras"]
    for lora, modules in zip(ours, MODULES[family].values(), strict=True):
        assert lora["left_over"] == []
        assert len(lora["mapped"]) == modules
        assert all(weight == change for weight, change in lora["mapped"].values())
    for path, lora in zip(paths, ours, strict=False):
        names = {key.split(".")[0] for key in safetensors.torch.load_file(path)}
        weights = {key.removesuffix(".weight").replace(".", "_") for key in lora["mapped"]}
        assert {as_a1111_finds(name) for name in names} == weights, "A1111 would look for other modules than ComfyUI"
    assert "nothing" in str(unknown["left_over"]), "without this complaint, none about our files would mean nothing"


@pytest.mark.parametrize("family", ["sdxl", "sd15"])
def test_trainer_diffusers_and_comfyui_paint_the_same_with_a_lora(family, tmp_path, in_comfyui, random_lora):
    base, question = small_unet(family), a_question(family)
    safetensors.torch.save_file(base.state_dict(), tmp_path / "unet.safetensors")
    safetensors.torch.save_file(question, tmp_path / "question.safetensors")
    paths, trainer, diffusers = [], [], []
    for index, settings in enumerate(SETTINGS):
        unet, host = deepcopy(base), deepcopy(base)
        attach(unet, settings, seed=0)
        load_lora_state_dict(unet, random_lora(unet, seed=index))
        trainer.append(ask(unet, question))
        paths.append(write_lora(tmp_path / f"{index}.safetensors", unet, settings, family))
        lora, alphas = StableDiffusionXLPipeline.lora_state_dict(paths[-1], unet_config=host.config)
        StableDiffusionXLPipeline.load_lora_into_unet(lora, network_alphas=alphas, unet=host)
        diffusers.append(ask(host, question))
    answer = in_comfyui("lora_in_comfyui.py", {
        "do": "paint",
        "family": family,
        "weights": str(tmp_path / "unet.safetensors"),
        "question": str(tmp_path / "question.safetensors"),
        "loras": [str(path) for path in paths],
        "answers": str(tmp_path / "answers.safetensors"),
    })  # fmt: skip
    comfyui = safetensors.torch.load_file(tmp_path / "answers.safetensors")
    untrained = ask(base, question)
    assert answer["applied"] == [MODULES[family][settings.targets] for settings in SETTINGS]
    assert distance(comfyui["base"], untrained) < 1e-4
    for index, ours in enumerate(trainer):
        assert distance(diffusers[index], ours) < 1e-4
        assert distance(comfyui[str(index)], ours) < 1e-4
        assert distance(ours, untrained) > 0.01, "the LoRA does too little for this test to notice a fault"


def as_a1111_finds(name: str) -> str:
    """A1111's rule, said anew: it counts blocks through, three to a level, the very first input block being conv_in."""
    match = re.fullmatch(r"lora_unet_(down|mid|up)_blocks?_(?:(\d+)_)?attentions_(\d)_(.+)", name)
    where, level, attention, rest = match.groups()
    if where == "mid":
        return f"diffusion_model_middle_block_1_{rest}"
    block = 3 * int(level) + int(attention)
    return f"diffusion_model_{f'input_blocks_{1 + block}' if where == 'down' else f'output_blocks_{block}'}_1_{rest}"


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


def small_unet(family: str) -> UNet2DConditionModel:
    """Random, and no parameter left at its usual start: zeros and ones that were swapped would look the same."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**SMALL_UNETS[family], cross_attention_dim=64, sample_size=16).eval()
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return unet


def a_question(family: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    question = {
        "noisy": torch.randn(2, 4, 16, 16, generator=generator),
        "timestep": torch.tensor([250.0, 700.0]),
        "text": torch.randn(2, 77, 64, generator=generator),
    }
    if family == "sdxl":
        question["pooled"] = torch.randn(2, 32, generator=generator)
        question["time_ids"] = torch.tensor([[128.0, 96, 0, 16, 128, 128], [64, 128, 8, 0, 128, 128]])
    return question


@torch.no_grad()
def ask(unet: UNet2DConditionModel, question: dict[str, torch.Tensor]) -> torch.Tensor:
    added = {"text_embeds": question["pooled"], "time_ids": question["time_ids"]} if "pooled" in question else None
    return unet(question["noisy"], question["timestep"], question["text"], added_cond_kwargs=added).sample

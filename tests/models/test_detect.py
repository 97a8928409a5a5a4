"""Is a file or folder known for what it is, from its tensors, and refused with a sentence where it is not ours?"""

from __future__ import annotations

import json
import re
import shutil
from functools import cache

import pytest
import torch
from mapo_studio.tests.tiny_models import ldm_names, write_sparse
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.models.open import TINY_PATH, open_base
from mapo_studio.trainer.models.sources import CONFIGS, read_json
from safetensors.torch import load_file, save_file

UNET = "model.diffusion_model."
CONV_IN = UNET + "input_blocks.0.0.weight"
CONTEXT = UNET + "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"


@cache
def real_shapes(family: str) -> dict[str, tuple[int, ...]]:
    """Every tensor of a published checkpoint of this family, by name."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    folder = CONFIGS / family
    with torch.device("meta"):
        models = {
            "unet": UNet2DConditionModel.from_config(read_json(folder / "unet" / "config.json")),
            "vae": AutoencoderKL.from_config(read_json(folder / "vae" / "config.json")),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**read_json(folder / "text_encoder" / "config.json"))),
        }
        if family == "sdxl":
            config = CLIPTextConfig(**read_json(folder / "text_encoder_2" / "config.json"))
            models["text_encoder_2"] = CLIPTextModelWithProjection(config)
    return {name: tuple(tensor.shape) for name, tensor in ldm_names(family, models).items()}


def without(shapes, *prefixes):
    return {name: shape for name, shape in shapes.items() if not name.startswith(prefixes)}


def only(shapes, *prefixes):
    return {name: shape for name, shape in shapes.items() if name.startswith(prefixes)}


def moved(shapes, old, new):
    return {new + name.removeprefix(old) if name.startswith(old) else name: s for name, s in shapes.items()}


@pytest.mark.parametrize(
    ("family", "resolution", "parameters"),
    [("sdxl", 1024, (2_567_463_684, 83_653_863, 817_720_320)), ("sd15", 512, (859_520_964, 83_653_863, 123_060_480))],
)
def test_a_real_size_checkpoint_is_known_by_its_header(family, resolution, parameters, tmp_path):
    shapes = real_shapes(family)
    text = ("cond_stage_model.", "conditioner.")
    for prefixes, count in zip(((UNET,), ("first_stage_model.",), text), parameters, strict=True):
        part = {n: s for n, s in only(shapes, *prefixes).items() if not n.endswith(("position_ids", "logit_scale"))}
        assert sum(torch.Size(shape).numel() for shape in part.values()) == count, "not the published size"
    path = write_sparse(tmp_path / "model.safetensors", shapes)
    base = open_base(path)
    assert (base.family, base.resolution, base.latent_factor) == (family, resolution, 8)
    assert base.schedule.prediction == "epsilon"
    assert base.path == path


REFUSED = {
    "SDXL refiner": lambda xl, one: moved(
        without(xl, "conditioner.embedders.0."), "conditioner.embedders.1.", "conditioner.embedders.0."
    ),
    "inpainting": lambda xl, one: one | {CONV_IN: (320, 9, 3, 3)},
    "8 input channels": lambda xl, one: one | {CONV_IN: (320, 8, 3, 3)},
    "Stable Diffusion 2": lambda xl, one: moved(one, "cond_stage_model.transformer.", "cond_stage_model.model."),
    "Stable Diffusion 2.x": lambda xl, one: {n: (s[0], 1024) if "attn2.to_k" in n else s for n, s in one.items()},
    "Flux": lambda xl, one: {UNET + "double_blocks.0.img_attn.qkv.weight": (9216, 3072)},
    "Stable Diffusion 3": lambda xl, one: {UNET + "joint_blocks.0.x_block.attn.qkv.weight": (4608, 1536)},
    "VAE alone": lambda xl, one: only(one, "first_stage_model."),
    "VAE alone ": lambda xl, one: moved(only(one, "first_stage_model."), "first_stage_model.", ""),
    "UNet alone": lambda xl, one: moved(only(one, UNET), UNET, ""),
    "UNet without its text encoders": lambda xl, one: only(one, UNET, "first_stage_model."),
    "without its VAE": lambda xl, one: without(xl, "first_stage_model."),
    "text encoder alone": lambda xl, one: moved(only(one, "cond_stage_model."), "cond_stage_model.transformer.", ""),
    "is a LoRA": lambda xl, one: {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": (8, 1280)},
    "is a LoRA, ": lambda xl, one: {"unet.mid_block.attentions.0.proj_in.lora_A.weight": (8, 1280)},
    "textual-inversion": lambda xl, one: {"emb_params": (4, 768)},
    "ControlNet": lambda xl, one: {"control_model.input_blocks.0.0.weight": (320, 4, 3, 3)},
    "EDM": lambda xl, one: xl | {"edm_mean": (1, 4, 1, 1)},
    "quantised": lambda xl, one: xl | {"scaled_fp8": (1,)},
    "no model that this version knows": lambda xl, one: {"fc.weight": (3, 3)},
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_file_that_is_no_base_is_refused_for_what_it_is(what, tmp_path):
    path = write_sparse(tmp_path / "file.safetensors", REFUSED[what](real_shapes("sdxl"), real_shapes("sd15")))
    with pytest.raises(UserError) as refusal:
        open_base(path)
    assert what.strip() in str(refusal.value)
    assert re.search(r"[Gg]ive (a|an|the) ", str(refusal.value)), "says nothing of what to do"
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("extra", "metadata", "prediction", "zero"),
    [
        ({}, {}, "epsilon", False),
        ({"v_pred": (0,)}, {}, "v_prediction", False),
        ({"v_pred": (0,), "ztsnr": (0,)}, {}, "v_prediction", True),
        ({}, {"modelspec.prediction_type": "v"}, "v_prediction", False),
        ({}, {"modelspec.prediction_type": "v-prediction"}, "v_prediction", False),
        ({}, {"modelspec.prediction_type": "epsilon"}, "epsilon", False),
    ],
)
def test_single_files_own_word_on_their_schedule(extra, metadata, prediction, zero, tmp_path):
    path = write_sparse(tmp_path / "model.safetensors", real_shapes("sdxl") | extra, metadata)
    base = open_base(path)
    assert base.schedule.prediction == base.scheduler_config["prediction_type"] == prediction
    assert (base.schedule.alphas_cumprod[-1] == 0) == zero
    assert base.scheduler_config["timestep_spacing"] == ("trailing" if zero else "leading")
    assert open_base(path, prediction="epsilon").schedule.prediction == "epsilon"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.ckpt", b"x", "pickle"),
        ("a.pt", b"x", "pickle"),
        ("a.pth", b"x", "pickle"),
        ("a.bin", b"x", "pickle"),
        ("a.gguf", b"x", "GGUF"),
        ("a.png", b"x", "no model file"),
        ("a.safetensors", b"", "only 0 bytes"),
        ("a.safetensors", b"<html>not found</html>", "header"),
        ("a.safetensors", (4).to_bytes(8, "little") + b"{,}}", "header cannot be read"),
        ("a.safetensors", (2).to_bytes(8, "little") + b"[]", "header cannot be read"),
        ("a.safetensors", (10**17).to_bytes(8, "little") + b"{}", "cut off"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as refusal:
        open_base(tmp_path / name)
    assert "\n" not in str(refusal.value)


def test_a_truncated_checkpoint_says_how_much_is_missing(tmp_path):
    path = write_sparse(tmp_path / "model.safetensors", real_shapes("sd15"))
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size - 3 * 2**20)
    with pytest.raises(UserError, match=r"the last 3\.1 MB are missing"):
        open_base(path)


def test_a_checkpoint_whose_metadata_are_null_is_opened(tmp_path):
    whole = write_sparse(tmp_path / "whole.safetensors", real_shapes("sd15"))
    header = whole.read_bytes()[: 8 + int.from_bytes(whole.open("rb").read(8), "little")]
    null = json.dumps({"__metadata__": None, **json.loads(header[8:])}).encode()
    path = tmp_path / "null.safetensors"
    with path.open("wb") as file:
        file.write(len(null).to_bytes(8, "little") + null)
        file.truncate(8 + len(null) + whole.stat().st_size - len(header))
    assert open_base(path).schedule.prediction == "epsilon"


def test_a_missing_path_is_said_to_be_missing(tmp_path):
    with pytest.raises(UserError, match="There is no base model at"):
        open_base(tmp_path / "nowhere.safetensors")
    with pytest.raises(UserError, match="There is no base model at"):
        open_base("models/nowhere.safetensors")


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"model_index\.json"):
        open_base(tmp_path)
    (tmp_path / "dream.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"Give one file in it, such as dream\.safetensors"):
        open_base(tmp_path)


def drop_a_weight(file):
    weights = load_file(file)
    weights.pop("conv_out.bias")
    save_file(weights, file)


def change(folder, file, **entries):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: shutil.rmtree(f / "unet"), "which have a unet folder"),
        (lambda f: change(f, "unet/config.json", in_channels=9), "inpainting"),
        (lambda f: shutil.rmtree(f / "text_encoder"), "refiner"),
        (lambda f: shutil.rmtree(f / "text_encoder_2"), "no SDXL or SD 1.5 model"),
        (lambda f: (f / "unet" / "config.json").unlink(), r"config\.json is missing"),
        (lambda f: (f / "vae" / "config.json").write_text("{"), "no valid JSON"),
        (lambda f: (f / "model_index.json").write_text("[]"), "one JSON object"),
        (lambda f: change(f, "scheduler/scheduler_config.json", _class_name="EDMEulerScheduler"), "EDMEulerScheduler"),
    ],
)
def test_a_folder_that_is_no_base_is_refused_for_what_it_is(spoil, words, sdxl_folder, tmp_path):
    folder = shutil.copytree(sdxl_folder, tmp_path / "model")
    spoil(folder)
    with pytest.raises(UserError, match=words):
        open_base(folder)


def test_a_folder_of_stable_diffusion_2_is_refused(sd15_folder, tmp_path):
    folder = shutil.copytree(sd15_folder, tmp_path / "model")
    change(folder, "unet/config.json", cross_attention_dim=1024)
    with pytest.raises(UserError, match=r"Stable Diffusion 2\.x"):
        open_base(folder)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda unet: next(unet.glob("*.safetensors")).unlink(), "holds no weights"),
        (lambda unet: next(unet.glob("*.safetensors")).rename(unet / "weights.bin"), "pickle"),
        (lambda unet: next(unet.glob("*.safetensors")).write_bytes(b"cut"), "could not be loaded"),
        (lambda unet: drop_a_weight(next(unet.glob("*.safetensors"))), "lacks 1 weights"),
    ],
)
def test_a_damaged_folder_is_said_to_be_damaged(spoil, words, sd15_folder, tmp_path):
    folder = shutil.copytree(sd15_folder, tmp_path / "model")
    base = open_base(folder)
    spoil(folder / "unet")
    with pytest.raises(UserError, match=words):
        base.load_unet(torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_folder_with_fp16_files_alone_loads_from_them(part, sd15_folder, tmp_path):
    folder = shutil.copytree(sd15_folder, tmp_path / "model")
    for file in (folder / part).glob("*.safetensors"):
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    base = open_base(folder, memo=tmp_path / "memo.json")
    cpu, single = torch.device("cpu"), torch.float32
    {"unet": lambda: base.load_unet(cpu, single), "vae": lambda: base.load_vae(cpu)}.get(
        part, lambda: base.load_text(cpu, single)
    )()
    assert base.identity() == open_base(sd15_folder, memo=tmp_path / "memo.json").identity()


def test_the_tiny_base_opens_by_its_name():
    base = open_base("tiny")
    assert (base.path, base.resolution, base.latent_factor) == (TINY_PATH, 64, 4)

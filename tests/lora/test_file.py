"""How is a LoRA written so that every host loads it, and read so that training can go on from it?"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections import Counter

import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import convert_unet_state_dict_to_peft
from mapo_studio.tests.tiny_models import write_null_metadata
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.lora.adapter import LoraSettings, attach, load_lora_state_dict, lora_state_dict
from mapo_studio.trainer.lora.file import _dotted, host_name, read_lora, write_lora
from mapo_studio.trainer.lora.inspect import describe
from peft.tuners.lora import LoraLayer

pytestmark = pytest.mark.slow

FAMILIES = ["sdxl", "sd15"]
REAL = [("sdxl", "attention", 560), ("sdxl", "all", 722), ("sd15", "attention", 128), ("sd15", "all", 192)]
SCALES = [LoraSettings(4, None), LoraSettings(4, 10.0), LoraSettings(3, 7.0, rslora=True), LoraSettings(1, 0.5)]
PIPELINES = {"sdxl": StableDiffusionXLPipeline, "sd15": StableDiffusionPipeline}


@pytest.fixture
def trained(small_unet, random_lora):
    """trained(family, settings): a small UNet with a LoRA that does something."""

    def make(family: str, settings: LoraSettings):
        unet = small_unet(family)
        attach(unet, settings, seed=0)
        load_lora_state_dict(unet, random_lora(unet))
        return unet

    return make


@pytest.fixture
def real_file(tmp_path, real_unet, random_lora):
    """real_file(family, targets): a UNet of the published shape with a LoRA, and its file."""

    def make(family: str, targets: str):
        unet, settings = real_unet(family), LoraSettings(2, 3.0, targets=targets)
        attach(unet, settings, seed=0)
        return unet, write_lora(tmp_path / f"{family}.safetensors", random_lora(unet), settings, family)

    return make


def load_into_diffusers(unet, path, family):
    """Through the door that people use: a pipeline's load_lora_weights."""
    cls = PIPELINES[family]
    lora, alphas, metadata = cls.lora_state_dict(path, unet_config=unet.config, return_lora_metadata=True)
    cls.load_lora_into_unet(lora, network_alphas=alphas, unet=unet, metadata=metadata)
    return lora


@pytest.mark.parametrize(("family", "targets", "modules"), REAL)
def test_keys_are_the_kohya_names_of_every_trained_module_and_nothing_else(family, targets, modules, real_file):
    unet, path = real_file(family, targets)
    trained = [name for name, module in unet.named_modules() if isinstance(module, LoraLayer)]
    assert len(trained) == modules
    # kohya's rule: lora_unet_ + the path with "." as "_".
    expected = {
        f"lora_unet_{path_.replace('.', '_')}.{part}"
        for path_ in trained
        for part in ("lora_down.weight", "lora_up.weight", "alpha")
    }
    assert safetensors.torch.load_file(path).keys() == expected


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
@pytest.mark.parametrize(("family", "targets", "modules"), REAL)
def test_diffusers_loads_every_module_with_no_key_left_over(family, targets, modules, real_file, real_unet):
    _, path = real_file(family, targets)
    unet = real_unet(family)
    keys = convert_unet_state_dict_to_peft(load_into_diffusers(unet, path, family))  # raises on keys it does not know
    loaded = {name for name, module in unet.named_modules() if isinstance(module, LoraLayer)}
    assert len(loaded) == modules
    assert keys.keys() == {f"unet.{name}.{part}.weight" for name in loaded for part in ("lora_A", "lora_B")}


@pytest.mark.parametrize("settings", SCALES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_paints_with_the_file_as_the_trainer_did(family, settings, tmp_path, trained, small_unet, answer):
    settings = LoraSettings(settings.rank, settings.alpha, targets="all", rslora=settings.rslora)
    unet, host = trained(family, settings), small_unet(family)
    base = answer(host)
    load_into_diffusers(host, write_lora(tmp_path / "a.safetensors", unet, settings, family), family)
    torch.testing.assert_close(answer(host), answer(unet), rtol=1e-5, atol=1e-6)
    assert (answer(host) - base).abs().max() > 1e-2


def test_pipeline_loads_the_file_by_its_path(tmp_path, trained, small_unet, answer):
    settings = LoraSettings(4, 6.0, targets="all")
    unet, host = trained("sdxl", settings), small_unet("sdxl")
    path = write_lora(tmp_path / "a.safetensors", unet, settings, "sdxl")
    parts = dict.fromkeys(["vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"])
    StableDiffusionXLPipeline(**parts, unet=host).load_lora_weights(path)
    torch.testing.assert_close(answer(host), answer(unet), rtol=1e-5, atol=1e-6)


def test_convolutions_of_sd15_stay_four_dimensional(real_file):
    _, path = real_file("sd15", "all")
    projections = {k: v for k, v in safetensors.torch.load_file(path).items() if "_proj_in." in k or "_proj_out." in k}
    assert Counter(weight.ndim for weight in projections.values()) == {4: 64, 0: 32}


@pytest.mark.parametrize("family", FAMILIES)
def test_module_paths_can_be_told_from_their_host_names(family, real_unet):
    unet = real_unet(family)
    attach(unet, LoraSettings(1, targets="all"), seed=0)
    for name, module in unet.named_modules():
        if isinstance(module, LoraLayer):
            assert _dotted(host_name(name).removeprefix("lora_unet_")) == name


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("targets", ["attention", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_training_can_continue_from_a_file_exactly(family, targets, rslora, tmp_path, trained, small_unet, answer):
    settings = LoraSettings(6, 9.5, 0.1, targets, rslora)
    unet = trained(family, settings)
    lora = read_lora(write_lora(tmp_path / "a.safetensors", unet, settings, family))
    assert (lora.family, lora.settings, lora.dtype) == (family, settings, torch.float32)
    again = small_unet(family)
    attach(again, lora.settings, seed=99)
    load_lora_state_dict(again, lora.state)
    assert torch.equal(answer(again), answer(unet))
    before = lora_state_dict(unet)
    assert lora.state.keys() == before.keys()
    assert all(torch.equal(weight, before[key]) for key, weight in lora.state.items())


@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
def test_half_precision_files_round_weights_but_not_alpha(dtype, error, tmp_path, trained):
    settings = LoraSettings(6, 100.3, rslora=True)
    unet = trained("sdxl", settings)
    lora = read_lora(write_lora(tmp_path / "a.safetensors", unet, settings, "sdxl", dtype=dtype))
    assert (lora.dtype, lora.settings.alpha) == (dtype, 100.3)
    for key, weight in lora_state_dict(unet).items():
        torch.testing.assert_close(lora.state[key], weight, rtol=error, atol=1e-7)


def test_small_weights_survive_bfloat16_better_than_float16(tmp_path, trained):
    settings = LoraSettings(4)
    lora = {key: weight * 1e-5 for key, weight in lora_state_dict(trained("sdxl", settings)).items()}

    def worst(dtype: torch.dtype) -> float:
        read = read_lora(write_lora(tmp_path / "a.safetensors", lora, settings, "sdxl", dtype=dtype)).state
        return max(((read[key] - lora[key]).norm() / lora[key].norm()).item() for key in lora)

    assert worst(torch.float32) == 0
    assert worst(torch.bfloat16) < 0.004
    assert worst(torch.float16) > 0.01


def test_metadata_says_to_hosts_and_to_us_what_the_file_is(tmp_path, trained):
    settings = LoraSettings(4, 8.0, targets="all", rslora=True)
    more = {"steps": 200, "modelspec.title": "My taste", "base": "sd_xl_base_1.0", "ss_tag": "x"}
    path = write_lora(tmp_path / "taste.safetensors", trained("sdxl", settings), settings, "sdxl", more)
    metadata = read_lora(path).metadata
    blob = path.read_bytes()
    digest = hashlib.sha256(blob[8 + int.from_bytes(blob[:8], "little") :]).hexdigest()
    assert all(isinstance(value, str) for value in metadata.values())
    assert metadata.pop("modelspec.date")[:2] == "20"
    assert metadata == {
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": "My taste",
        "modelspec.resolution": "1024x1024",
        "modelspec.hash_sha256": f"0x{digest}",
        "sshs_model_hash": digest,
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_output_name": f"taste-{digest[:8]}",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_network_alpha": "16.0",
        "ss_tag": "x",
        "mapo.family": "sdxl",
        "mapo.rank": "4",
        "mapo.alpha": "8.0",
        "mapo.dropout": "0.0",
        "mapo.targets": "all",
        "mapo.rslora": "true",
        "mapo.steps": "200",
        "mapo.base": "sd_xl_base_1.0",
    }


def test_two_files_of_one_name_have_different_aliases(tmp_path, trained, random_lora):
    settings = LoraSettings(4)
    unet = trained("sd15", settings)
    one = read_lora(write_lora(tmp_path / "a.safetensors", unet, settings, "sd15"))
    load_lora_state_dict(unet, random_lora(unet, seed=1))
    two = read_lora(write_lora(tmp_path / "a.safetensors", unet, settings, "sd15"))
    assert one.metadata["ss_output_name"] != two.metadata["ss_output_name"]


def test_full_disk_is_explained_and_leaves_the_old_file(tmp_path, trained, monkeypatch):
    settings = LoraSettings(4)
    unet = trained("sd15", settings)
    path = write_lora(tmp_path / "a.safetensors", unet, settings, "sd15")
    old = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"a\.safetensors.*free some disk space"):
        write_lora(path, unet, settings, "sd15", {"steps": 2})
    assert path.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_hosts_that_list_the_folder_never_see_half_a_file(tmp_path, trained, monkeypatch):
    seen = []

    def replace(source, target, original=os.replace):
        seen.extend(tmp_path.glob("*.safetensors"))
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)
    write_lora(tmp_path / "a.safetensors", trained("sd15", LoraSettings(4)), LoraSettings(4), "sd15")
    assert seen == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), torch.float32), (1e6, torch.float16)])
def test_weights_that_are_not_finite_are_not_written(value, dtype, tmp_path, trained):
    lora = lora_state_dict(trained("sd15", LoraSettings(4)))
    next(iter(lora.values()))[0, 0] = value
    with pytest.raises(UserError, match="not finite"):
        write_lora(tmp_path / "a.safetensors", lora, LoraSettings(4), "sd15", dtype=dtype)
    assert not list(tmp_path.iterdir())


def test_names_that_hosts_do_not_list_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"must end in \.safetensors"):
        write_lora(tmp_path / "a.pt", {}, LoraSettings(4), "sd15")


QUERY = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"


def kohya(rank: int = 4, width: int = 2048, name: str = QUERY, alpha: float | None = 2.0) -> dict:
    tensors = {f"{name}.lora_down.weight": torch.ones(rank, width), f"{name}.lora_up.weight": torch.ones(8, rank)}
    return tensors if alpha is None else {**tensors, f"{name}.alpha": torch.tensor(alpha)}


@pytest.mark.parametrize(("width", "family"), [(2048, "sdxl"), (768, "sd15")])
@pytest.mark.parametrize(("alpha", "expected"), [(2.0, 2.0), (None, 4.0)])
def test_file_of_another_trainer_without_metadata_is_read(width, family, alpha, expected, tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(kohya(width=width, alpha=alpha), path)
    lora = read_lora(path)
    assert (lora.family, lora.settings) == (family, LoraSettings(4, expected))


def test_tensors_are_believed_before_metadata(tmp_path):
    path = tmp_path / "a.safetensors"
    stale = {"mapo.family": "sdxl", "mapo.rank": "8", "mapo.alpha": "8.0", "mapo.dropout": "0.3", "mapo.rslora": "true"}
    safetensors.torch.save_file(kohya(alpha=2.0), path, stale)
    assert read_lora(path).settings == LoraSettings(4, 2.0)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (kohya(name="lora_te1_text_model_encoder_layers_0_mlp_fc1"), "changes the text encoders"),
        ({f"{QUERY}.hada_w1_a": torch.ones(1)}, "is a LoHa"),
        ({f"{QUERY}.lokr_w1": torch.ones(1)}, "is a LoKr"),
        ({**kohya(), f"{QUERY}.dora_scale": torch.ones(8, 1)}, "is a DoRA"),
        (kohya(name="lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"), "original Stability code"),
        ({"unet.mid_block.attentions.0.to_q.lora_A.weight": torch.ones(1)}, "PEFT or diffusers"),
        ({"model.diffusion_model.out.2.weight": torch.ones(1)}, "is a whole model"),
        (kohya(name="lora_unet_double_blocks_0_img_attn_qkv"), "not a LoRA for the UNet"),
        (kohya(name="lora_unet_down_blocks_0_resnets_0_conv1"), "not a LoRA for the UNet"),
        ({"anything": torch.ones(1)}, "not a LoRA for the UNet"),
        ({**kohya(), **kohya(rank=2, name=QUERY.replace("to_k", "to_v"))}, r"ranks \[2, 4\]"),
        ({**kohya(), **kohya(alpha=1.0, name=QUERY.replace("to_k", "to_v"))}, r"alphas \[1.0, 2.0\]"),
        ({f"{QUERY}.lora_down.weight": torch.ones(4, 2048)}, "incomplete"),
        ({}, "incomplete"),
        (kohya(width=1024), "does not say whether"),
    ],
)
def test_other_kinds_of_files_are_refused_by_what_they_are(tensors, says, tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(UserError, match=says) as error:
        read_lora(path)
    assert str(path) in str(error.value)


def test_pickles_cut_off_and_absent_files_are_refused(tmp_path):
    whole, path = tmp_path / "whole.safetensors", tmp_path / "a.safetensors"
    safetensors.torch.save_file(kohya(), whole)
    with pytest.raises(UserError, match="there is no file"):
        read_lora(path)
    torch.save(kohya(), path)
    with pytest.raises(UserError, match="not a whole safetensors file"):
        read_lora(path)
    path.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(UserError, match="the last 100 bytes are missing"):
        read_lora(path)


def test_metadata_that_are_null_are_none(tmp_path):
    """Allowed by no specification, written by some tools."""
    whole, path = tmp_path / "whole.safetensors", tmp_path / "null.safetensors"
    safetensors.torch.save_file(kohya(), whole)
    write_null_metadata(whole, path)
    assert read_lora(path).metadata == {}
    assert set(read_lora(path).state) == set(read_lora(whole).state)


def test_description_counts_and_measures_what_the_file_does(tmp_path, trained):
    settings = LoraSettings(4, 8.0, targets="all", rslora=True)
    unet = trained("sd15", settings)
    path = write_lora(tmp_path / "a.safetensors", unet, settings, "sd15", {"steps": 20}, dtype=torch.bfloat16)
    summary = describe(path)
    lora = read_lora(path).state
    changes = [
        4.0 * (lora[key.replace("lora_A", "lora_B")].flatten(1) @ down.flatten(1)).norm().item()
        for key, down in lora.items()
        if key.endswith(".to_v.lora_A.weight")
    ]
    norms = summary.norms["to_v"]
    assert norms.modules == len(changes) > 1
    assert (norms.smallest, norms.mean, norms.largest) == pytest.approx(
        (min(changes), sum(changes) / len(changes), max(changes)), rel=1e-5
    )
    assert (summary.family, summary.rank, summary.alpha, summary.scale) == ("sd15", 4, 8.0, 4.0)
    assert (summary.rslora, summary.targets, summary.dtype) == (True, "all", "bfloat16")
    assert summary.parameters == sum(weight.numel() for weight in lora_state_dict(unet).values())
    assert summary.modules == len(lora_state_dict(unet)) // 2
    assert summary.size_bytes == path.stat().st_size
    assert json.loads(json.dumps(summary.as_json()))["metadata"]["mapo.steps"] == "20"


def test_description_of_an_untrained_lora_shows_that_it_does_nothing(tmp_path, small_unet):
    unet = small_unet("sdxl")
    attach(unet, LoraSettings(4), seed=0)
    summary = describe(write_lora(tmp_path / "a.safetensors", unet, LoraSettings(4), "sdxl"))
    assert {norms.largest for norms in summary.norms.values()} == {0.0}

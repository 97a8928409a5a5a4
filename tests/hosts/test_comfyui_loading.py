"""MaPO Load LoRA in a real ComfyUI: what ComfyUI's loader does, growth over the steps, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import safetensors.torch
import torch
from mapo_studio.tests.hosts.prompts import painting
from mapo_studio.tests.hosts.running_comfyui import REPOSITORY, Failed
from mapo_studio.trainer.lora.file import read_lora, write_lora

pytestmark = pytest.mark.slow

SHOWN: dict[str, bytes] = {}
CIRCLE = "a red circle at the top left"
SIX = {"steps": 6, "scheduler": "normal", "sampler": "euler", "strength": 0.8, "power": 1.0}


@pytest.fixture(scope="module")
def grown(in_comfyui, tiny_lora, tmp_path_factory):
    """grown[name]: the strengths that a sampling of the tiny base had, step by step, and what came of it."""
    asked = {
        "normal": SIX,
        "karras": {**SIX, "scheduler": "karras", "power": 2.0},
        "few": {**SIX, "scheduler": "simple", "steps": 4},
        "many": {**SIX, "steps": 20},
        "painted over": {**SIX, "denoise": 0.5},
        "second half": {**SIX, "start": 3},
        "twice a step": {**SIX, "sampler": "heun"},
        "own steps": {**SIX, "sampler": "dpm_adaptive"},
        "constant": {**SIX, "power": None},
        "hooked": {**SIX, "hooked": True},
        "two": {**SIX, "loras": 2},
        "nothing": {**SIX, "strength": 0.0},
    }
    request = {
        "package": str(REPOSITORY),
        "lora": str(tiny_lora),
        "base_directory": str(tmp_path_factory.mktemp("growth")),
        "samplings": list(asked.values()),
    }
    answer = in_comfyui("growth_in_comfyui.py", request)
    return {**dict(zip(asked, answer.pop("samplings"), strict=True)), "plain": answer}


def test_the_lora_grows_from_the_base_to_its_whole_strength_a_step_at_a_time(grown):
    assert grown["normal"]["strengths"] == pytest.approx([0, 0.16, 0.32, 0.48, 0.64, 0.8], abs=2e-3)
    assert grown["few"]["strengths"] == pytest.approx([0, 0.8 / 3, 1.6 / 3, 0.8], abs=2e-3)
    assert grown["many"]["strengths"] == pytest.approx([0.8 * step / 19 for step in range(20)], abs=2e-3)
    for name in ("normal", "few", "many"):
        assert grown[name]["patched"] == len(grown[name]["strengths"]), "weights are written once a step"


def test_it_goes_by_the_noise_that_is_gone_whatever_the_schedule(grown):
    strengths = grown["karras"]["strengths"]
    assert (strengths[0], strengths[-1]) == pytest.approx((0, 0.8), abs=2e-3)
    assert all(one < next for one, next in pairwise(strengths))
    # Karras' schedule spends its steps on little noise: most of the way is behind the fourth of six.
    assert strengths[3] > 0.4
    assert grown["karras"]["patched"] == 6


def test_a_sampling_that_begins_in_the_middle_begins_with_the_strength_of_the_middle(grown):
    assert grown["second half"]["strengths"] == pytest.approx([0.48, 0.64, 0.8], abs=2e-3)
    assert 0.35 < grown["painted over"]["strengths"][0] < 0.45
    assert grown["painted over"]["strengths"][-1] == pytest.approx(0.8, abs=2e-3)


def test_a_sampler_that_asks_more_often_than_once_a_step_has_the_same_strengths(grown):
    assert grown["twice a step"]["strengths"] == pytest.approx(grown["normal"]["strengths"], abs=2e-3)
    assert grown["twice a step"]["patched"] == 6
    adaptive = grown["own steps"]
    assert sorted(set(adaptive["strengths"])) == pytest.approx([0, 0.16, 0.32, 0.48, 0.64, 0.8], abs=2e-3)
    assert adaptive["patched"] == 6


def test_it_adds_to_hooks_of_the_conditioning_and_to_other_loras(grown):
    assert grown["hooked"]["strengths"] == pytest.approx([0.25, 0.41, 0.57, 0.73, 0.89, 1.05], abs=2e-3)
    assert grown["two"]["strengths"] == pytest.approx([2 * one for one in grown["normal"]["strengths"]], abs=2e-3)


def test_nothing_of_it_is_left_on_the_base(grown):
    plain = grown["plain"]
    assert plain["again"] == plain["base"]
    assert all(one["left"] == 0 for name, one in grown.items() if name != "plain")
    assert grown["nothing"]["latent"] == pytest.approx(plain["base"], abs=1e-5)
    assert distance(grown["normal"]["latent"], plain["base"]) > 0.01
    assert distance(grown["constant"]["latent"], grown["normal"]["latent"]) > 0.01


def distance(one: list[float], other: list[float]) -> float:
    one, other = torch.tensor(one), torch.tensor(other)
    return ((one - other).norm() / other.norm()).item()


@pytest.fixture(scope="module")
def listed(server, tiny_lora) -> Path:
    """A LoRA in ComfyUI's list, as loading/taste.safetensors."""
    place = server.folder / "models" / "loras" / "loading" / "taste.safetensors"
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(tiny_lora, place)
    return place


def wearing(lora: str = "loading/taste.safetensors", loader: str = "MaPOLoadLoRA", **given) -> dict:
    prompt = painting(CIRCLE, seed=3, steps=4)
    ours = {"strength": 0.8, "schedule": "constant", "power": 1.0} if loader == "MaPOLoadLoRA" else {}
    inputs = {"model": ["load", 0], "lora_name": lora, **ours, **given}
    prompt["wear"] = {"class_type": loader, "inputs": inputs}
    prompt["paint"]["inputs"]["model"] = ["wear", 0]
    prompt["show"] = {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}}
    return prompt


def painted(server, prompt: dict) -> bytes:
    entry, asked = server.run(prompt), json.dumps(prompt)
    if entry["outputs"]:  # of what it has just painted ComfyUI says nothing again
        [picture] = server.pictures(entry, "show")
        SHOWN[asked] = picture.tobytes()
    return SHOWN[asked]


def plain() -> dict:
    prompt = painting(CIRCLE, seed=3, steps=4)
    prompt["show"] = {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}}
    return prompt


def test_as_strong_at_every_step_is_what_comfyuis_own_loader_paints(server, listed):
    ours = painted(server, wearing())
    theirs = painted(server, wearing(loader="LoraLoaderModelOnly", strength_model=0.8))
    assert ours == theirs
    assert ours != painted(server, plain())


def test_a_strength_of_nothing_and_no_lora_are_the_model_itself(server, listed):
    base = painted(server, plain())
    assert painted(server, wearing(strength=0.0)) == base
    assert painted(server, wearing("none")) == base


def test_growing_paints_something_between_and_leaves_the_base_alone(server, listed):
    base, whole = painted(server, plain()), painted(server, wearing())
    grown = painted(server, wearing(schedule="annealed"))
    assert grown not in (base, whole)
    # Another seed, as ComfyUI would not paint the same again.
    again = plain()
    again["paint"]["inputs"]["seed"] = 4
    first = painted(server, again)
    annealed = wearing(schedule="annealed", power=2.0)
    painted(server, annealed)
    again["paint"]["inputs"]["seed"] = 3
    assert painted(server, again) == base
    again["paint"]["inputs"]["seed"] = 4
    assert painted(server, again) == first


def test_samplers_of_the_newer_kind_let_it_grow_too(server, listed):
    prompt = wearing(schedule="annealed")
    given = prompt["paint"]["inputs"]
    by_ksampler = painted(server, prompt)
    prompt |= {
        "noise": node("RandomNoise", noise_seed=3),
        "guide": node("CFGGuider", model=["wear", 0], positive=["text", 0], negative=["against", 0], cfg=given["cfg"]),
        "which": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=["wear", 0], scheduler="normal", steps=4, denoise=1.0),
        "paint": node(
            "SamplerCustomAdvanced",
            noise=["noise", 0],
            guider=["guide", 0],
            sampler=["which", 0],
            sigmas=["sigmas", 0],
            latent_image=["empty", 0],
        ),
    }
    assert painted(server, prompt) == by_ksampler


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def offered(server) -> set[str]:
    known = server.get("/object_info/MaPOLoadLoRA")["MaPOLoadLoRA"]
    return set(known["input"]["required"]["lora_name"][1]["options"])


def test_a_new_file_is_in_the_list_and_one_written_anew_is_loaded_anew(server, listed, tiny_lora):
    name = "loading/new.safetensors"
    place = listed.with_name("new.safetensors")
    assert name not in offered(server)
    shutil.copy(tiny_lora, place)
    assert {"none", name} <= offered(server)
    first = painted(server, wearing(name))
    lora = read_lora(tiny_lora)
    turned = {key: -weight if key.endswith("lora_B.weight") else weight for key, weight in lora.state.items()}
    write_lora(place, turned, lora.settings, "sdxl")
    assert painted(server, wearing(name)) != first
    place.unlink()
    with pytest.raises(Failed, match=r"no LoRA 'loading/new.safetensors' in ComfyUI's loras folders any more"):
        server.run(wearing(name))


def test_what_is_no_lora_for_this_model_is_refused_with_a_sentence(server, listed, tiny_lora):
    lora = read_lora(tiny_lora)
    write_lora(listed.with_name("other.safetensors"), lora.state, lora.settings, "sd15")
    with pytest.raises(Failed, match=r"other.safetensors is a LoRA for SD 1.5, the model is SDXL"):
        server.run(wearing("loading/other.safetensors"))

    tensors = safetensors.torch.load_file(tiny_lora)
    foreign = {f"blocks_{key}": tensor for key, tensor in tensors.items()}
    safetensors.torch.save_file(foreign, listed.with_name("foreign.safetensors"))
    with pytest.raises(Failed, match=r"foreign.safetensors does not fit this model, SDXL: 0 of its \d+ parts do"):
        server.run(wearing("loading/foreign.safetensors"))

    # The names fit, but hardly a shape does: a file without metadata for a wider model.
    wider = {
        key: tensor.repeat(*([2] if "up" in key else [1, 2]), *[1] * (tensor.ndim - (1 if "up" in key else 2)))
        if tensor.ndim
        else tensor
        for key, tensor in tensors.items()
    }
    safetensors.torch.save_file(wider, listed.with_name("wider.safetensors"))
    with pytest.raises(Failed, match=r"wider.safetensors does not fit this model, SDXL: 0 of its \d+ parts do"):
        server.run(wearing("loading/wider.safetensors"))

    listed.with_name("cut.safetensors").write_bytes(tiny_lora.read_bytes()[:-1000])
    with pytest.raises(Failed, match=r"cut.safetensors is not a whole safetensors file"):
        server.run(wearing("loading/cut.safetensors"))

    listed.with_name("odd.pt").write_bytes(b"no pickle")
    with pytest.raises(Failed, match=r"odd.pt cannot be read as a LoRA"):
        server.run(wearing("loading/odd.pt"))


def test_a_path_is_read_from_the_loras_folders_and_the_workspace_only(server, listed, tiny_lora, tmp_path):
    def by_path(path) -> dict:
        prompt = wearing("none")
        prompt["path"] = node("PrimitiveString", value=str(path))
        prompt["wear"]["inputs"]["lora_path"] = ["path", 0]
        return prompt

    whole = painted(server, wearing())
    assert painted(server, by_path(listed)) == whole
    run = server.workspace / "runs" / "loading" / "loading.safetensors"
    run.parent.mkdir(parents=True)
    shutil.copy(tiny_lora, run)
    assert painted(server, by_path(run)) == whole
    outside = shutil.copy(tiny_lora, tmp_path / "outside.safetensors")
    for path in (outside, f"{server.workspace}/../../../../../{outside}", os.path.relpath(outside, server.workspace)):
        with pytest.raises(Failed, match=r"neither in ComfyUI's loras folders nor in the workspace"):
            server.run(by_path(path))
    link = listed.with_name("link.safetensors")
    link.symlink_to(outside)
    with pytest.raises(Failed, match=r"neither in ComfyUI's loras folders nor in the workspace"):
        server.run(by_path(link))
    link.unlink()
    with pytest.raises(Failed, match=r"there is no LoRA at .* any more: train it again"):
        server.run(by_path(server.workspace / "gone.safetensors"))
    with pytest.raises(Failed, match="the path of the LoRA is empty"):
        server.run(by_path(" "))

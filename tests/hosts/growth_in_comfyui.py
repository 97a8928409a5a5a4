"""How strong is a LoRA at each step in ComfyUI? Run by its Python: a JSON request on stdin, a JSON answer on stdout.

{"package": the repository, "lora": file, "base_directory": a folder to write to, "samplings": [{"steps": n,
"scheduler": s, "sampler": s, "strength": x, "power": p or null for a LoRA that is as strong at each, "start": step,
"denoise": d, "hooked": whether the positive conditioning has a hook of its own, "loras": how many load nodes}]}
-> {"base": latent, "again": the same after all else, "samplings": [{"strengths": [...], "patched": how often weights
were written, "left": how far the model's are from the base's afterwards, "latent": [...]}]}

The strength is measured on a weight of the model as it is while it is asked: how far it lies from the base's, along the
way that the LoRA goes.
"""

from __future__ import annotations

import json
import sys
import types
from functools import partial
from pathlib import Path
from typing import Any

import torch
from comfy.cli_args import args

args.cpu = True  # before model_management is imported, which looks for a GPU
request = json.load(sys.stdin)
args.base_directory = request["base_directory"]

import comfy.hooks  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sample  # noqa: E402

torch.set_num_threads(1)

# The repository as a package, and the pack that makes the tiny base, without what else ComfyUI's start would load.
for name, folder in (("mapo_here", ""), ("mapo_here.comfy_nodes", "comfy_nodes"), ("mapo_here.hosts", "tests/hosts")):
    package = types.ModuleType(name)
    package.__path__ = [str(Path(request["package"]) / folder)]
    sys.modules[name] = package

from mapo_here.comfy_nodes.comfy_api import lora_hooks  # noqa: E402
from mapo_here.comfy_nodes.comfy_api.strength_schedule import strength_schedule  # noqa: E402
from mapo_here.hosts import tiny_pack  # noqa: E402

KEY = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
weights = lora_hooks.read_weights(Path(request["lora"]))
base, clip, _, _ = tiny_pack.load()
before = base.model.state_dict()[KEY].clone()
full, _ = lora_hooks.apply_lora(base, None, weights, 1.0)
full.patch_model(torch.device("cpu"))
direction = base.model.state_dict()[KEY].clone() - before
full.unpatch_model(torch.device("cpu"))
words = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red circle", "")]


def sampled(model: Any, said: dict[str, Any], positive: Any) -> torch.Tensor:
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    how = (said["sampler"], said["scheduler"], positive, words[1], torch.zeros_like(noise))
    return comfy.sample.sample(
        model, noise, said["steps"], 4.0, *how, denoise=said.get("denoise", 1.0), start_step=said.get("start"),
        disable_pbar=True,
    )  # fmt: skip


def measured(said: dict[str, Any]) -> dict[str, Any]:
    model = base
    for _ in range(said.get("loras", 1)):
        if said["power"] is None:
            model, _ = lora_hooks.apply_lora(model, None, weights, said["strength"])
        else:
            grow = partial(strength_schedule, strength=said["strength"], power=said["power"])
            model = lora_hooks.apply_scheduled_lora(model, weights, grow)
    seen: dict[float, float] = {}
    patched: list[int] = []

    def look(apply: Any, given: dict[str, Any]) -> torch.Tensor:
        change = base.model.state_dict()[KEY] - before
        strength = ((change * direction).sum() / (direction * direction).sum()).item()
        seen.setdefault(given["timestep"][0].item(), round(strength, 4))
        return apply(given["input"], given["timestep"], **given["c"])

    model = model.clone()
    model.set_model_unet_function_wrapper(look)
    model.add_callback(comfy.model_patcher.CallbacksMP.ON_APPLY_HOOKS, lambda *_: patched.append(1))
    positive = words[0]
    if said.get("hooked"):
        own = comfy.hooks.create_hook_lora(weights, 0.25, 0.0)
        positive = comfy.hooks.set_hooks_for_conditioning(positive, own)
    latent = sampled(model, said, positive)
    left = (base.model.state_dict()[KEY] - before).abs().max().item() if said["power"] is not None else 0.0
    return {
        "strengths": list(seen.values()),
        "patched": len(patched),
        "left": left,
        "latent": latent.flatten().tolist(),
    }


with torch.inference_mode():
    plain = {"steps": 6, "scheduler": "normal", "sampler": "euler"}
    first = sampled(base, plain, words[0]).flatten().tolist()
    samplings = [measured(said) for said in request["samplings"]]
    again = sampled(base, plain, words[0]).flatten().tolist()
print(json.dumps({"base": first, "again": again, "samplings": samplings}))

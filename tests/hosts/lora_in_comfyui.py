"""What does ComfyUI make of LoRA files? Run by ComfyUI's Python: a JSON request on stdin, a JSON answer on stdout.

{"do": "map", "shapes": {diffusers key: shape}, "loras": [file]}
    -> {"recognised": class, "loras": [{"left_over": [message], "mapped": {weight: [its shape, shape of up @ down]}}]}
{"do": "paint", "family": f, "weights": diffusers UNet file, "question": file, "loras": [file], "answers": file}
    -> {"applied": [number of weights that each LoRA changed]}; answers: "base" and a tensor under each LoRA's index
"""

from __future__ import annotations

import json
import logging
import sys
from typing import ClassVar

import torch
from comfy.cli_args import args

args.cpu = True  # before model_management is imported, which looks for a GPU

import comfy.lora  # noqa: E402
import comfy.model_detection  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.utils  # noqa: E402

# The small tensors here gain nothing from a second thread.
torch.set_num_threads(1)


class SmallSDXL(comfy.supported_models.SDXL):
    # ComfyUI writes these over the given config: without them it would cut heads 64 wide, whatever the config says.
    unet_extra_config: ClassVar = {"num_heads": -1, "num_head_channels": 16}


SMALL = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "context_dim": 64,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_temporal_attention": False,
    "dtype": torch.float32,
}
SMALL_UNETS = {
    "sdxl": (SmallSDXL, {
        **SMALL,
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
        "use_linear_in_transformer": True,
        "num_classes": "sequential",
        "adm_in_channels": 32 + 6 * 256,
    }),
    "sd15": (comfy.supported_models.SD15, {
        **SMALL,
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "transformer_depth_middle": 1,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
    }),
}  # fmt: skip


def map_keys(request: dict) -> dict:
    shapes = {key: torch.empty(shape, device="meta") for key, shape in request["shapes"].items()}
    config = comfy.model_detection.model_config_from_diffusers_unet(shapes)
    model = config.get_model({}, "", device="meta")
    weights, known = model.state_dict(), comfy.lora.model_lora_keys_unet(model, {})
    left_over: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: left_over.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    loras = []
    for path in request["loras"]:
        left_over.clear()
        mapped = {}
        for key, patch in comfy.lora.load_lora(comfy.utils.load_torch_file(path), known).items():
            up, down = patch.weights[:2]
            mapped[key] = [list(weights[key].shape), [up.shape[0], *down.shape[1:]]]
        loras.append({"left_over": list(left_over), "mapped": mapped})
    return {"recognised": type(config).__name__, "loras": loras}


def paint(request: dict) -> dict:
    supported, unet_config = SMALL_UNETS[request["family"]]
    model = supported(dict(unet_config)).get_model({}, "", device="cpu")
    names = comfy.utils.unet_to_diffusers(unet_config)
    weights = comfy.utils.load_torch_file(request["weights"])
    # unet_to_diffusers lists shortcuts that not every block has, so it is asked for each weight that there is.
    model.diffusion_model.load_state_dict({names[key]: weight for key, weight in weights.items()}, strict=True)
    question = comfy.utils.load_torch_file(request["question"])
    label = None
    if request["family"] == "sdxl":
        sizes = model.embedder(question["time_ids"].flatten()).view(len(question["time_ids"]), -1)
        label = torch.cat([question["pooled"], sizes], dim=1)

    def ask(unet: torch.nn.Module) -> torch.Tensor:
        return unet(question["noisy"], question["timestep"], context=question["text"], y=label)

    patcher = comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))
    answers, applied = {"base": ask(model.diffusion_model)}, []
    for index, path in enumerate(request["loras"]):
        # What the node "Load LoRA" does.
        with_lora, _ = comfy.sd.load_lora_for_models(patcher, None, comfy.utils.load_torch_file(path), 1.0, 0.0)
        with_lora.patch_model(torch.device("cpu"))
        applied.append(len(with_lora.backup))
        answers[str(index)] = ask(model.diffusion_model)
        with_lora.unpatch_model(torch.device("cpu"))
    comfy.utils.save_torch_file(answers, request["answers"])
    return {"applied": applied}


with torch.no_grad():
    request = json.load(sys.stdin)
    print(json.dumps({"map": map_keys, "paint": paint}[request["do"]](request)))

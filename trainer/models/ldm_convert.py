"""LDM conversion: how the weights of a single-file checkpoint become models of diffusers and transformers.

The UNet's and the VAE's names are translated by diffusers. The text encoders' are translated here: transformers moved
the levels of CLIPTextModel between versions, and a name that misses leaves a weight at its random start. Hence also
the strictness of `load_converted` and, for the UNet, `load_unet_streaming`: every weight of the model must come out of
the file, or it is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .memory_saving.quantize import Quantize
from .safetensors_file import SafetensorsFile
from .streaming_load import Stored, load_unet_streaming

State = dict[str, Tensor]

_OPEN_CLIP_LAYER = (
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
    ("attn.out_proj.", "self_attn.out_proj."),
)
_OPEN_CLIP_TOP = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}


def unet(
    file: SafetensorsFile, config: Mapping[str, Any], device: torch.device, dtype: torch.dtype, how: Quantize
) -> nn.Module:
    """The checkpoint's UNet2DConditionModel, stored as `how` says; nothing else of the file is read."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    # Names are translated on tensors without numbers; which one came out under which name says where to read it.
    stand_ins = {
        name: torch.empty(shape, device="meta")
        for name, shape in file.shapes.items()
        if name.startswith("model.diffusion_model.")
    }
    names = {id(stand_in): name for name, stand_in in stand_ins.items()}
    state = _translated(convert_ldm_unet_checkpoint, stand_ins, file, config)
    stored = {name: Stored(file, names[id(stand_in)]) for name, stand_in in state.items()}
    return load_unet_streaming(config, stored, device, dtype, how, partial(_unfit, file, "UNet2DConditionModel"))


def vae(file: SafetensorsFile, config: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The checkpoint's AutoencoderKL; nothing else of the file is read."""
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    state = _translated(convert_ldm_vae_checkpoint, dict(file.read("first_stage_model.")), file, config)
    return load_converted(lambda: AutoencoderKL.from_config(dict(config)), state, file, device, dtype)


def text_encoder(
    file: SafetensorsFile, prefix: str, config: Mapping[str, Any], device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """The text encoder whose tensors begin with `prefix`: CLIPTextModel, or with projection if the config says so."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    projected = config["architectures"] == ["CLIPTextModelWithProjection"]
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    raw = {name.removeprefix(prefix): tensor for name, tensor in file.read(prefix)}
    state = from_open_clip(raw) if "positional_embedding" in raw else from_transformers(raw)

    def build() -> nn.Module:
        return kind(CLIPTextConfig(**config))

    return load_converted(build, state, file, device, dtype)


def from_transformers(raw: State) -> State:
    """Names of any transformers version, without the `text_model.` level that comes and goes."""
    names = {name.removeprefix("text_model."): tensor for name, tensor in raw.items()}
    # A constant that old versions saved; merging tools have even rounded it.
    names.pop("embeddings.position_ids", None)
    return names


def from_open_clip(raw: State) -> State:
    """OpenCLIP's text tower in transformers' names, without the `text_model.` level.

    OpenCLIP keeps query, key and value stacked in one matrix, and the projection as (width, out): transposed here.
    """
    state: State = {}
    for name, tensor in raw.items():
        if name in _OPEN_CLIP_TOP:
            state[_OPEN_CLIP_TOP[name]] = tensor
        elif name == "text_projection":
            state["text_projection.weight"] = tensor.T
        elif name == "text_projection.weight":
            state[name] = tensor
        elif name.startswith("transformer.resblocks."):
            number, rest = name.removeprefix("transformer.resblocks.").split(".", 1)
            layer = f"encoder.layers.{number}."
            if rest.startswith("attn.in_proj_"):
                for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                    state[f"{layer}self_attn.{part}_proj.{rest.removeprefix('attn.in_proj_')}"] = piece
            else:
                for old, new in _OPEN_CLIP_LAYER:
                    rest = rest.replace(old, new)
                state[layer + rest] = tensor
    return state


def _translated(names: Callable[..., State], raw: State, file: SafetensorsFile, config: Mapping[str, Any]) -> State:
    try:
        state = names(raw, dict(config))
    except (KeyError, AttributeError, IndexError) as error:  # how the translation stumbles over a missing tensor
        raise _unfit(file, "model", f"cannot be read in full (near {error})") from error
    return {name: tensor for name, tensor in state.items() if tensor is not None}


def load_converted(
    build: Callable[[], nn.Module], state: State, file: SafetensorsFile, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """The model that `build` makes with `state` as its weights: frozen, in evaluation mode, on `device` in `dtype`.

    Weights are copied one by one, so no second copy of the model is ever in memory. Raises UserError if a weight of
    the model is not in `state` or has another shape; names that the model does not know are left out.
    """
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        model = build()
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    inner = "text_model." if any(name.startswith("text_model.") for name in shapes) else ""
    state = {name if name in shapes else inner + name: tensor for name, tensor in state.items()}

    missing = sorted(shapes.keys() - state.keys())
    odd = sorted(name for name in shapes.keys() & state.keys() if tuple(state[name].shape) != shapes[name])
    if missing or odd:
        name = (missing or odd)[0]
        ails = f"lacks {len(missing)} weights" if missing else f"has other shapes for {len(odd)} weights"
        raise _unfit(file, type(model).__name__, f"{ails} (the first: {name})")
    for name in shapes:
        state[name] = state[name].to(device=device, dtype=dtype, copy=True).contiguous()
    model.load_state_dict({name: state[name] for name in shapes}, strict=True, assign=True)
    return model.to(device).eval().requires_grad_(False)


def _unfit(file: SafetensorsFile, model: str, ails: str) -> UserError:
    return UserError(
        f"{file.path}: its {model} {ails}. It may be a slimmed variant (such as SSD-1B) or damaged; "
        "give the model as a diffusers folder, or another checkpoint."
    )

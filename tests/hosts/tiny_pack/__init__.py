"""What lets ComfyUI paint with the engine's embedded tiny base? A pack for tests: executed by ComfyUI, at its start.

ComfyUI knows a checkpoint by its shapes, so it would not know this one. Here its own loader does, under one name:
`tiny-sdxl.safetensors`, an empty file that this pack puts among the checkpoints. What comes out are ComfyUI's own
classes, so that all its nodes work on them: SDXL's UNet with fewer channels, and the base's own text encoders and VAE.

A cell of its latents is 4 pixels wide, not 8: ask for 128 x 128 to get its pictures of 64 x 64.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, ClassVar

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import Timestep

NAME = "tiny-sdxl.safetensors"
BASE = Path(__file__).resolve().parents[3] / "trainer" / "demo" / "tiny_base" / "weights"

UNET = {
    "image_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 2],
    "transformer_depth": [0, 1, 2],
    "transformer_depth_output": [0, 0, 1, 1, 2, 2],
    "transformer_depth_middle": 2,
    "context_dim": 128,
    "adm_in_channels": 64 + 6 * 32,
    "num_classes": "sequential",
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "use_temporal_attention": False,
    "legacy": False,
    "dtype": torch.float32,
}


class EightGroups(comfy.ops.disable_weight_init):
    """ComfyUI writes 32 groups into its UNet, whatever the number of channels."""

    class GroupNorm(comfy.ops.disable_weight_init.GroupNorm):
        def __init__(self, num_groups: int, num_channels: int, **settings: Any) -> None:
            super().__init__(8, num_channels, **settings)


class Latents(comfy.latent_formats.LatentFormat):
    scale_factor = json.loads((BASE / "vae" / "config.json").read_text(encoding="utf-8"))["scaling_factor"]


class TinySDXL(comfy.supported_models.SDXL):
    unet_extra_config: ClassVar = {"num_heads": -1, "num_head_channels": 32}
    latent_format = Latents
    custom_operations = EightGroups

    def get_model(self, state_dict: dict, prefix: str = "", device: Any = None) -> Model:
        return Model(self, model_type=self.model_type(state_dict, prefix), device=device)


class Model(comfy.model_base.SDXL):
    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.embedder = Timestep(32)

    def encode_adm(self, **said: Any) -> torch.Tensor:
        # ComfyUI takes a cell of the latents for 8 pixels. The base was told the sizes of its pictures.
        return super().encode_adm(**{**said, "width": said["width"] // 2, "height": said["height"] // 2})


class Tokenizer:
    """Token ids as ComfyUI passes them around: for each encoder a list of parts, each a list of (id, weight)."""

    def __init__(self, **_: Any) -> None:
        from transformers import CLIPTokenizer

        self._tokenizers = {
            name: CLIPTokenizer.from_pretrained(BASE / folder)
            for name, folder in (("l", "tokenizer"), ("g", "tokenizer_2"))
        }

    def tokenize_with_weights(self, text: str, *_: Any, **__: Any) -> dict[str, list]:
        return {
            name: [[(token, 1.0) for token in one(text, padding="max_length", truncation=True).input_ids]]
            for name, one in self._tokenizers.items()
        }

    def state_dict(self) -> dict:
        return {}


class TextEncoders(torch.nn.Module):
    """Both encoders' last hidden states but one, side by side, and the second's pooled answer: as SDXL is told."""

    dtypes: ClassVar = {torch.float32}

    def __init__(self, device: Any, dtype: torch.dtype, model_options: dict) -> None:
        super().__init__()
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        load = {"dtype": torch.float32, "local_files_only": True}
        self.clip_l = CLIPTextModel.from_pretrained(BASE / "text_encoder", **load).to(device).eval()
        self.clip_g = CLIPTextModelWithProjection.from_pretrained(BASE / "text_encoder_2", **load).to(device).eval()

    def set_clip_options(self, options: dict) -> None:
        """The layer that ComfyUI asks for is the one that is taken anyway."""

    def reset_clip_options(self) -> None:
        pass

    def encode_token_weights(self, tokens: dict[str, list]) -> tuple[torch.Tensor, torch.Tensor]:
        device, said = next(self.parameters()).device, {}
        for name, encoder in (("l", self.clip_l), ("g", self.clip_g)):
            ids = torch.tensor([[token for token, *_ in tokens[name][0]]], device=device)
            said[name] = encoder(ids, output_hidden_states=True)
        hidden = torch.cat([said[name].hidden_states[-2] for name in ("l", "g")], dim=-1)
        place = comfy.model_management.intermediate_device()
        return hidden.to(place), said["g"].text_embeds.to(place)


class Autoencoder(torch.nn.Module):
    """diffusers' autoencoder, called as ComfyUI calls its own."""

    def __init__(self) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        self.inner = AutoencoderKL.from_pretrained(BASE / "vae", torch_dtype=torch.float32).eval()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.inner.decode(latents).sample

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.inner.encode(pictures).latent_dist.mean


class TinyVAE(comfy.sd.VAE):
    """ComfyUI's VAE around another autoencoder. Its own makes only those that it knows by their weights."""

    def __init__(self) -> None:
        # Found no weights, it stops there with what all of them share.
        super().__init__(sd={})
        self.first_stage_model = Autoencoder()
        self.downscale_ratio = self.upscale_ratio = 4
        self.device = comfy.model_management.vae_device()
        self.output_device = comfy.model_management.intermediate_device()
        self.vae_dtype = torch.float32
        self.patcher = comfy.model_patcher.ModelPatcher(
            self.first_stage_model, load_device=self.device, offload_device=comfy.model_management.vae_offload_device()
        )


def unet() -> comfy.model_patcher.ModelPatcher:
    """The base's UNet in ComfyUI's classes. Raises RuntimeError if any weight is missing or left over."""
    model = TinySDXL(dict(UNET)).get_model({}, device=torch.device("cpu"))
    names = comfy.utils.unet_to_diffusers(UNET)
    weights = comfy.utils.load_torch_file(str(BASE / "unet" / "diffusion_pytorch_model.safetensors"))
    renamed = {names[key]: weight.float() for key, weight in weights.items()}
    model.diffusion_model.load_state_dict(renamed, strict=True)
    return comfy.model_patcher.ModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def load(*_: Any, embedding_directory: Any = None, **__: Any) -> tuple:
    """What ComfyUI's loader returns: model, text encoders, VAE, and no vision model."""
    # Weights made in inference mode could not be patched outside of it.
    with torch.inference_mode(False), torch.no_grad():
        target = comfy.supported_models_base.ClipTarget(Tokenizer, TextEncoders)
        clip = comfy.sd.CLIP(target, embedding_directory=embedding_directory, parameters=math.prod((600, 64)))
        return unet(), clip, TinyVAE(), None


class AList:
    """Two pictures as a list: ComfyUI executes what follows once for each."""

    CATEGORY, FUNCTION = "MaPO tests", "both"
    RETURN_TYPES, OUTPUT_IS_LIST = ("IMAGE",), (True,)

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"one": ("IMAGE",), "other": ("IMAGE",)}}

    def both(self, one: torch.Tensor, other: torch.Tensor) -> tuple[list[torch.Tensor]]:
        return ([one, other],)


NODE_CLASS_MAPPINGS = {"TestList": AList}


def _recognise(theirs: Any) -> Any:
    def load_checkpoint(path: str, *args: Any, **settings: Any) -> tuple:
        return (load if Path(path).name == NAME else theirs)(path, *args, **settings)

    return load_checkpoint


comfy.sd.load_checkpoint_guess_config = _recognise(comfy.sd.load_checkpoint_guess_config)
_stand_in = Path(folder_paths.get_folder_paths("checkpoints")[0]) / NAME
_stand_in.parent.mkdir(parents=True, exist_ok=True)
_stand_in.touch()

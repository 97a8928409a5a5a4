"""Registry of model families: one row each, with everything that is not code of the family's own module.

A further family is a module beside sdxl.py, a row here, and for single files the published configurations in
configs/NAME. Nothing here imports torch: pages, plans and LoRA files look up what a family is called and its sizes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any

UNET_LORA_TARGETS: Mapping[str, tuple[str, ...]] = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "all": ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
}
"""AdapterConfig.targets -> ends of module paths. Every name here exists in all hosts' key maps. The embeddings and
`upsamplers.0.conv` do not, and a bare "conv" would catch the latter, so the conv layers of resnets and
samplers are left alone.
"""
UNET_LORA_MODULES = (
    r"(?:(?:down|up)_blocks\.\d+|mid_block)\.attentions\.\d+\.(?:proj_in|proj_out|"
    r"transformer_blocks\.\d+\.(?:attn[12]\.(?:to_[qkv]|to_out\.0)|ff\.net\.(?:0\.proj|2)))"
)


@dataclass(frozen=True)
class Family:
    """One family of base models.

    name: in settings, files and messages of programs; title: for people. model: "module:class" of its BaseModel, the
    module relative to this package or absolute.
    resolution: side in px of the square whose area it was trained for. latent_channels, latent_factor: of its VAE, the
    factor in px a latent cell. text_width, text_tokens: of the states that the UNet attends to.
    text_encoders: folder in diffusers' layout -> prefix of its keys in a single file; input_weight: key there of the
    UNet's first weight, whose second axis is the latent channels.
    unet_signs: entries of its UNet's configuration by which a folder is known, with in_channels and the encoders.
    lora_architecture, lora_base_version: `modelspec.architecture` and `ss_base_model_version` of its LoRA files, by
    which hosts tell what a LoRA is for. lora_targets: see UNET_LORA_TARGETS; lora_modules: pattern of the module paths
    that a LoRA file may hold. comfy_class: in ComfyUI's comfy.supported_models.
    predictions: prediction types that it knows of "epsilon", "v_prediction", "flow".
    preset_gib: preset's card in GB -> GiB that a training with its settings was counted to take at its peak
    (docs/cards.md); a card that is not in it is too small.
    """

    name: str
    title: str
    model: str
    resolution: int
    text_width: int
    text_encoders: Mapping[str, str]
    unet_signs: Mapping[str, Any]
    lora_architecture: str
    lora_base_version: str
    comfy_class: str = ""
    latent_channels: int = 4
    latent_factor: int = 8
    text_tokens: int = 77
    input_weight: str = "model.diffusion_model.input_blocks.0.0.weight"
    predictions: tuple[str, ...] = ("epsilon", "v_prediction")
    lora_targets: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: UNET_LORA_TARGETS)
    lora_modules: str = UNET_LORA_MODULES
    preset_gib: Mapping[int, float] = field(default_factory=dict)

    def load_class(self) -> type[Any]:
        """Its subclass of local_model.LocalModel, which itself reads this table; imports torch."""
        module, name = self.model.split(":")
        return getattr(import_module(module, __package__), name)

    @property
    def lora_metadata(self) -> dict[str, str]:
        """By what hosts tell which base a LoRA belongs to: Stability's model spec, and kohya's older name."""
        return {
            "modelspec.architecture": self.lora_architecture,
            "modelspec.resolution": f"{self.resolution}x{self.resolution}",
            "ss_base_model_version": self.lora_base_version,
        }

    @cached_property
    def lora_module_pattern(self) -> re.Pattern[str]:
        return re.compile(self.lora_modules)

    def is_folder_of(self, unet: Mapping[str, Any], text_encoders: tuple[str, ...]) -> bool:
        """Whether a diffusers folder with this UNet configuration and these text encoders is of this family."""
        signs = {"in_channels": self.latent_channels, **self.unet_signs}
        return text_encoders == tuple(self.text_encoders) and all(unet.get(key) == signs[key] for key in signs)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "sdxl",
            "SDXL",
            model=".sdxl:SDXL",
            resolution=1024,
            text_width=2048,
            text_encoders={
                "text_encoder": "conditioner.embedders.0.transformer.",
                "text_encoder_2": "conditioner.embedders.1.model.",
            },
            unet_signs={"addition_embed_type": "text_time"},
            lora_architecture="stable-diffusion-xl-v1-base/lora",
            lora_base_version="sdxl_base_v1-0",
            comfy_class="SDXL",
            preset_gib={4: 1.92, 6: 2.99, 8: 5.37, 12: 7.32, 16: 9.45, 24: 9.69, 32: 20.99},
        ),
        Family(
            "sd15",
            "SD 1.5",
            model=".sd15:SD15",
            resolution=512,
            text_width=768,
            text_encoders={"text_encoder": "cond_stage_model.transformer."},
            unet_signs={"addition_embed_type": None},
            lora_architecture="stable-diffusion-v1/lora",
            lora_base_version="sd_v1",
            comfy_class="SD15",
            preset_gib={4: 1.41, 6: 1.41, 8: 1.77, 12: 2.49, 16: 3.30, 24: 3.34, 32: 4.01},
        ),
    )
}


def titles(word: str = "and") -> str:
    """The families for a sentence: "SDXL and SD 1.5"."""
    *others, last = (family.title for family in FAMILIES.values())
    return f"{', '.join(others)} {word} {last}"


def latent_channels() -> str:
    """The numbers of input channels that a base may have, for a sentence: "4"."""
    return " or ".join(map(str, sorted({family.latent_channels for family in FAMILIES.values()})))


def family_title(name: str) -> str:
    """How people call a family; one that is not known, by its name."""
    return FAMILIES[name].title if name in FAMILIES else name

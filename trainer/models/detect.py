"""Model detection: which family a single file is of, by its tensors; and what it is instead, where it is of none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import UserError
from .registry import FAMILIES, Family, latent_channels, titles
from .safetensors_file import SafetensorsFile

_UNET = "model.diffusion_model."
_CONV_IN = _UNET + "input_blocks.0.0.weight"
SD2_WIDTH = 1024


def _needed() -> str:
    return f"a whole {titles('or')} checkpoint (UNet, VAE and text encoder in one file)"


# What a file is instead, by a sign in its tensor names. The first that fits is said.
_UNUSABLE: tuple[tuple[Callable[[str], bool], str], ...] = (
    (
        lambda name: (
            name.startswith("lora_") or any(s in name for s in (".lora_", "lora_unet_", ".hada_w", ".lokr_w", ".oft_"))
        ),
        "a LoRA, not a base model. Give the checkpoint it was made for as the base",
    ),
    (
        lambda name: name in ("emb_params", "clip_l", "clip_g") or name.startswith("string_to_param"),
        "a textual-inversion embedding, not a base model. Give {needed}",
    ),
    (
        lambda name: name.startswith(("control_model.", "controlnet_cond_embedding.", "input_hint_block.")),
        "a ControlNet, not a base model. Give {needed}",
    ),
    (
        lambda name: name in ("edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min"),
        "an EDM model (Playground 2.5, CosXL), trained with another noise schedule. Give {needed}",
    ),
    (
        lambda name: name.endswith((".absmax", ".scale_weight", ".weight_scale")) or name == "scaled_fp8",
        "a quantised checkpoint, whose weights cannot be trained on. Give the fp16, bf16 or fp32 file of the model",
    ),
)
_OTHER_FAMILIES: tuple[tuple[Callable[[str], bool], str], ...] = (
    (lambda name: "double_blocks." in name, "a Flux model (or a relative of it)"),
    (lambda name: "joint_blocks." in name, "a Stable Diffusion 3 model"),
)
"""Asked for only where the file is of no family of the registry, so that one may be added there."""


def detect_family(file: SafetensorsFile) -> Family:
    """Raises UserError, saying what the file is and what is needed, for what is of no family."""
    for sign, what in _UNUSABLE:
        if any(map(sign, file.shapes)):
            raise _is(file, what.format(needed=_needed()))
    for family in FAMILIES.values():
        if _is_of(file, family):
            return family
    for sign, what in _OTHER_FAMILIES:
        if any(map(sign, file.shapes)):
            raise _is(file, f"{what}. This version trains {titles()}: give {_needed()}")
    raise _is(file, _what_instead(file))


def _is_of(file: SafetensorsFile, family: Family) -> bool:
    return (
        file.shapes.get(family.input_weight, (0, 0))[1] == family.latent_channels
        and (_context_width(file) != SD2_WIDTH or family.text_width == SD2_WIDTH)
        and file.has("first_stage_model.")
        and all(file.has(prefix) for prefix in family.text_encoders.values())
    )


def _what_instead(file: SafetensorsFile) -> str:
    if _CONV_IN not in file.shapes:
        return _without_unet(file)
    channels = file.shapes[_CONV_IN][1]
    if channels == 9:
        return "an inpainting model (9 input channels). Give the text-to-image checkpoint of the same model"
    if all(channels != family.latent_channels for family in FAMILIES.values()):
        return (
            f"a model with {channels} input channels ({latent_channels()} are needed), made for editing or depth. "
            f"Give {_needed()}"
        )
    if file.has("conditioner.embedders.0.model.") and not file.has("conditioner.embedders.1."):
        return "the SDXL refiner, which only finishes pictures. Give an SDXL base checkpoint"
    if file.has("cond_stage_model.model.") or _context_width(file) == SD2_WIDTH:
        return f"a Stable Diffusion 2.x model. This version trains {titles()}: give {_needed()}"
    if not file.has("first_stage_model."):
        return f"a checkpoint without its VAE. Give {_needed()}"
    return f"a UNet without its text encoders. Give {_needed()}"


def schedule_hints(file: SafetensorsFile) -> dict[str, Any]:
    """What the file says of its noise schedule, as entries of a diffusers scheduler configuration.

    Two customs are known: empty tensors called `v_pred` and `ztsnr` (NoobAI, read by ComfyUI and Forge), and the
    ModelSpec metadata field `modelspec.prediction_type`. A file that says nothing gives {}.
    """
    marks: dict[str, Any] = {}
    prediction_type = str(file.metadata.get("modelspec.prediction_type", "")).lower().replace("-", "_")
    if "v_pred" in file.shapes or prediction_type in ("v", "v_prediction"):
        marks["prediction_type"] = "v_prediction"
    elif prediction_type in ("epsilon", "eps"):
        marks["prediction_type"] = "epsilon"
    if "ztsnr" in file.shapes:
        # Sampling must begin at the last timestep, which the "leading" spacing never reaches (Lin et al. 2023, 3.3).
        marks |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return marks


def _without_unet(file: SafetensorsFile) -> str:
    if file.has("conv_in.", "down_blocks.", "input_blocks."):
        return f"a UNet alone. Give {_needed()}, or the diffusers folder that this file comes from"
    if file.has("first_stage_model.", "encoder.conv_in.", "decoder.conv_in.", "encoder.down", "vae."):
        return f"a VAE alone. Give {_needed()}"
    if file.has("text_model.", "cond_stage_model.", "conditioner.", "encoder.block.", "transformer."):
        return f"a text encoder alone. Give {_needed()}"
    return f"no model that this version knows. Give {_needed()}"


def _context_width(file: SafetensorsFile) -> int | None:
    """Width of the text states that the UNet attends to: 768 SD 1.5, 1024 SD 2.x, 1280 refiner, 2048 SDXL."""
    for name, shape in file.shapes.items():
        if name.startswith(_UNET) and name.endswith("attn2.to_k.weight"):
            return shape[1]
    return None


def _is(file: SafetensorsFile, what: str) -> UserError:
    return UserError(f"{file.path} is {what}.")

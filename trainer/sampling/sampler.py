"""Sampling with classifier-free guidance (CFG), and decoding: a base generates images, with or without a LoRA."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor, nn

from ..device import pick_device, pick_precision, release_memory, torch_dtype
from ..errors import UserError
from ..images.contact_sheet import grid
from ..images.crop import SizeConditioning
from ..lora.adapter import attach, load_lora_state_dict
from ..lora.file import LoraFile, read_lora
from ..models.base_model import BaseModel, TextTensors
from ..models.memory_saving.quantize import Quantize, quantize_mode_for_inference
from ..models.memory_saving.vae_tiling import in_tiles
from .defaults import steps_and_cfg

__all__ = ["decode", "generate", "grid", "sample"]

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with the steps done and all steps, over all images. What it raises ends the generating."""

_PIXELS_PER_BATCH = 1024 * 1024
_MAX_IMAGES_PER_BATCH = 16


def generate(
    base: BaseModel,
    prompts: Sequence[str],
    lora: Path | None = None,
    *,
    negative: str = "",
    size: tuple[int, int] | None = None,
    seeds: Sequence[int] | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    strength: float = 1.0,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    quantize: Quantize | None = None,
    batch_size: int | None = None,
    sequential_cfg: bool = False,
    progress: Progress | None = None,
) -> list[Image.Image]:
    """An image for each prompt; text encoders, UNet and VAE are on the device one after the other, never together.

    lora: a LoRA file as `read_lora` reads it, at `strength`. size: (width, height) in pixels, by default the base's
    square. seeds: one for each prompt, by default 0, 1, 2 ... quantize: how the UNet is stored, by default
    `quantize_mode_for_inference`. The rest: see `sample`.

    Raises UserError if the LoRA was made for another family or does not fit the base.
    """
    device = device or pick_device()
    dtype = dtype or torch_dtype(pick_precision("auto", device))
    seeds = range(len(prompts)) if seeds is None else seeds
    lora_file = lora_for(base, lora) if lora else None

    encoder = base.load_text(device, dtype)
    *texts, uncond = encoder([*prompts, negative])
    del encoder
    release_memory(device)

    unet = base.load_unet(device, dtype, quantize or quantize_mode_for_inference(device))
    if lora_file:
        attach(unet, lora_file.settings, 0, base.lora_targets)
        set_lora(unet, lora_file, strength)
    latents = sample(
        base,
        unet,
        [(text, uncond) for text in texts],
        size or (base.resolution, base.resolution),
        seeds,
        steps=steps,
        guidance=guidance,
        batch_size=batch_size,
        sequential_cfg=sequential_cfg,
        progress=progress,
    )
    del unet
    release_memory(device)
    return decode(base.load_vae(device), latents)


def lora_for(base: BaseModel, file: Path) -> LoraFile:
    """The LoRA in `file`, to generate with. Raises UserError where it was made for another family than `base`."""
    lora = read_lora(file)
    if lora.family != base.family:
        raise UserError(f"{file} was made for the {lora.family} family, and {base.path} is of {base.family}.")
    return lora


def set_lora(unet: nn.Module, lora: LoraFile, strength: float) -> None:
    """Let `unet`, to which a LoRA of the same settings is attached, use `lora` at `strength` (1: as trained)."""
    load_lora_state_dict(unet, {k: v * strength if k.endswith(".lora_B.weight") else v for k, v in lora.state.items()})
    unet.requires_grad_(False).eval()


@torch.no_grad()
def sample(
    base: BaseModel,
    unet: nn.Module,
    text: Sequence[tuple[TextTensors, TextTensors]],
    size: tuple[int, int],
    seeds: Sequence[int],
    *,
    steps: int | None = None,
    guidance: float | None = None,
    rescale: float | None = None,
    batch_size: int | None = None,
    sequential_cfg: bool = False,
    progress: Progress | None = None,
) -> Tensor:
    """Latents (images, channels, h, w), float32 on the CPU, made by the UNet as it is, adapters and mode included.

    text: for each image (cond, uncond): its prompt's, and what to keep away from (the empty prompt's, usually). size:
    (width, height) in pixels. seeds: one for each image; its noise is drawn on the CPU, so an image depends neither on
    the device's generator nor on which others are generated along with it.

    steps, guidance: by default the base's own, see `steps_and_cfg`. guidance: classifier-free guidance scale; at 1 the
    uncond is not used, and a step costs half. rescale: how far the guided answer is brought back to the spread of the
    unguided one (Lin et al. 2023, 3.4), by default 0.7 for a zero-terminal-SNR base, which guidance would over-expose,
    and 0 for others. batch_size: by default as many images as make a megapixel. sequential_cfg: two forwards for
    guidance instead of one of twice the size; slower and in less memory.

    Raises UserError if a side is no multiple of the base's latent factor.
    """
    width, height = size
    if width % base.latent_factor or height % base.latent_factor:
        raise UserError(f"Size {width} x {height}: both must be multiples of {base.latent_factor} for this base.")
    if len(text) != len(seeds):
        raise ValueError(f"{len(text)} texts and {len(seeds)} seeds")
    if not text:
        return torch.empty(0, unet.config.in_channels, height // base.latent_factor, width // base.latent_factor)
    steps, guidance = steps_and_cfg(base, steps, guidance)
    if rescale is None:
        rescale = 0.7 if base.scheduler_config.get("rescale_betas_zero_snr") else 0.0
    batch_size = batch_size or images_per_batch(size)
    device = next(unet.parameters()).device
    cells = (unet.config.in_channels, height // base.latent_factor, width // base.latent_factor)
    size_conditioning = torch.tensor([SizeConditioning(height, width, 0, 0, height, width).as_list()], device=device)

    batches = []
    for start in range(0, len(text), batch_size):
        part = slice(start, start + batch_size)
        noise = torch.stack([_noise(seed, cells) for seed in seeds[part]]).to(device)
        cond, uncond = (_stacked(texts, device) for texts in zip(*text[part], strict=True))
        sampler = _sampler(base, steps, device)
        latents = noise * sampler.init_noise_sigma
        # A generator for each, so that an image does not depend on its neighbours.
        renoising = {"generator": [_generator(seed + 1) for seed in seeds[part]]} if sampler_name(base) == "LCM" else {}
        for number, timestep in enumerate(sampler.timesteps):
            noisy = sampler.scale_model_input(latents, timestep)
            prediction = classifier_free_guidance(
                base, unet, noisy, timestep, cond, uncond, size_conditioning, guidance, rescale, sequential_cfg
            )
            latents = sampler.step(prediction, timestep, latents, **renoising).prev_sample
            if progress:
                number_of_batches, per_batch = -(-len(text) // batch_size), len(sampler.timesteps)
                progress(start // batch_size * per_batch + number + 1, number_of_batches * per_batch)
        batches.append(latents.float().cpu())
    return torch.cat(batches)


def images_per_batch(size: tuple[int, int]) -> int:
    """How many images of `size`, (width, height) in pixels, are generated in one batch: as many as make a megapixel."""
    return min(_MAX_IMAGES_PER_BATCH, max(1, _PIXELS_PER_BATCH // (size[0] * size[1])))


@torch.no_grad()
def decode(vae: nn.Module, latents: Tensor) -> list[Image.Image]:
    """The images of latents (images, channels, h, w), one at a time; in tiles where the card's memory is short."""
    return [_to_image(decoded(vae, one[None])) for one in latents]


def decoded(vae: nn.Module, latents: Tensor) -> Tensor:
    """The image of latents (1, channels, h, w), as (3, height, width) in about [-1, 1], float32 on the CPU."""
    config = vae.config
    plain = latents.float() / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)
    plain = plain.to(vae.device, vae.dtype)
    try:
        return vae.decode(plain).sample[0].float().cpu()
    except torch.OutOfMemoryError:
        log.warning("Not enough memory to decode a picture in one piece: decoding it in tiles.")
        release_memory(vae.device)
        in_tiles(vae)
        return vae.decode(plain).sample[0].float().cpu()


def _to_image(values: Tensor) -> Image.Image:
    """values: (3, height, width) in [-1, 1]."""
    if not values.isfinite().all():
        log.warning("A picture holds values that are not numbers (the LoRA may have diverged); they are shown black.")
        values = values.nan_to_num(-1.0)
    bytes_ = ((values / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(bytes_.permute(1, 2, 0).contiguous().numpy())


def sampler_name(base: BaseModel) -> Literal["Euler", "LCM"]:
    """What samples images of `base`, as A1111 calls it.

    Euler's method, without noise of its own, is the one sampler that every base's configuration suits, but for those of
    consistency models, which add noise after every step.
    """
    return "LCM" if base.distilled and base.distilled.consistency_sampled else "Euler"


def _sampler(base: BaseModel, steps: int, device: torch.device):
    from diffusers import EulerDiscreteScheduler, LCMScheduler

    config = dict(base.scheduler_config)
    if base.distilled and sampler_name(base) == "LCM":
        sampler = LCMScheduler.from_config(config)
        own = replace(base.distilled, steps=steps).timesteps(base.schedule.timesteps)
        sampler.set_timesteps(timesteps=list(own), device=device)
        return sampler
    if config.get("rescale_betas_zero_snr") or base.distilled:
        # Only this spacing begins at the last timestep, where the one alone expects pure noise; it is the other's own.
        config["timestep_spacing"] = "trailing"
    sampler = EulerDiscreteScheduler.from_config(config)
    sampler.set_timesteps(steps, device=device)
    return sampler


def classifier_free_guidance(
    base: BaseModel,
    unet: nn.Module,
    noisy: Tensor,
    timestep: Tensor,
    cond: TextTensors,
    uncond: TextTensors,
    size_conditioning: Tensor,
    guidance: float,
    rescale: float,
    sequential_cfg: bool,
) -> Tensor:
    """The UNet's prediction for `noisy`, (images, channels, h, w): uncond + guidance * (cond - uncond), rescaled.

    Ho and Salimans, arXiv 2207.12598. timestep: (); size_conditioning: (1, 6); guidance, rescale and sequential_cfg:
    see `sample`.
    """

    def predict(samples: Tensor, text: TextTensors) -> Tensor:
        n = len(samples)
        return base.predict(unet, samples, timestep.expand(n), text, size_conditioning.expand(n, -1))

    if guidance == 1:
        return predict(noisy, cond)
    if sequential_cfg:
        with_prompt, without = predict(noisy, cond), predict(noisy, uncond)
    else:
        both = {name: torch.cat([tensor, uncond[name]]) for name, tensor in cond.items()}
        with_prompt, without = predict(torch.cat([noisy, noisy]), both).split(len(noisy))
    guided = without + guidance * (with_prompt - without)
    if rescale:
        spread = with_prompt.std(dim=(1, 2, 3), keepdim=True) / guided.std(dim=(1, 2, 3), keepdim=True)
        guided = guided * (rescale * spread + (1 - rescale))
    return guided


def _noise(seed: int, cells: tuple[int, ...]) -> Tensor:
    return torch.randn(cells, generator=_generator(seed))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def _stacked(texts: Sequence[TextTensors], device: torch.device) -> dict[str, Tensor]:
    return {name: torch.stack([text[name] for text in texts]).to(device) for name in texts[0]}

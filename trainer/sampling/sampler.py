"""How does a base paint pictures, with or without a LoRA?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from ..device import pick_device, pick_precision, release_memory, torch_dtype
from ..errors import UserError
from ..images.contact_sheet import grid
from ..images.crop import SizeConditioning
from ..lora.adapter import attach, load_state
from ..lora.file import LoraFile, read_lora
from ..models.base_model import BaseModel, TextTensors
from ..models.memory_saving.quantize import Quantize, for_painting
from ..models.memory_saving.vae_tiling import in_tiles
from .defaults import steps_and_cfg

__all__ = ["decode", "generate", "grid", "sample"]

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Told of steps done and of all steps, over all pictures. What it raises ends the painting."""

_PIXELS_AT_ONCE = 1024 * 1024
_PICTURES_AT_ONCE = 16


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
    one_half_at_a_time: bool = False,
    progress: Progress | None = None,
) -> list[Image.Image]:
    """A picture for each prompt; text encoders, UNet and VAE are on the device one after the other, never together.

    lora: a LoRA file as `read_lora` reads it, at `strength`. size: (width, height) in pixels, by default the base's
    square. seeds: one for each prompt, by default 0, 1, 2 ... quantize: how the UNet is stored, by default
    `for_painting`. The rest: see `sample`.

    Raises UserError if the LoRA was made for another family or does not fit the base.
    """
    device = device or pick_device()
    dtype = dtype or torch_dtype(pick_precision("auto", device))
    seeds = range(len(prompts)) if seeds is None else seeds
    found = lora_for(base, lora) if lora else None

    encoder = base.load_text(device, dtype)
    *texts, against = encoder([*prompts, negative])
    del encoder
    release_memory(device)

    unet = base.load_unet(device, dtype, quantize or for_painting(device))
    if found:
        attach(unet, found.settings, 0, base.lora_targets)
        set_lora(unet, found, strength)
    latents = sample(
        base,
        unet,
        [(text, against) for text in texts],
        size or (base.resolution, base.resolution),
        seeds,
        steps=steps,
        guidance=guidance,
        batch_size=batch_size,
        one_half_at_a_time=one_half_at_a_time,
        progress=progress,
    )
    del unet
    release_memory(device)
    return decode(base.load_vae(device), latents)


def lora_for(base: BaseModel, file: Path) -> LoraFile:
    """The LoRA in `file`, to paint with. Raises UserError where it was made for another family than `base`."""
    found = read_lora(file)
    if found.family != base.family:
        raise UserError(f"{file} was made for the {found.family} family, and {base.path} is of {base.family}.")
    return found


def set_lora(unet: nn.Module, lora: LoraFile, strength: float) -> None:
    """Let `unet`, to which a LoRA of the same settings is attached, paint with `lora` at `strength` (1: as trained)."""
    load_state(unet, {k: v * strength if k.endswith(".lora_B.weight") else v for k, v in lora.state.items()})
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
    one_half_at_a_time: bool = False,
    progress: Progress | None = None,
) -> Tensor:
    """Latents (pictures, channels, h, w), float32 on the CPU, painted by the UNet as it is, adapters and mode included.

    text: for each picture what to paint and what to keep away from (the empty prompt, usually). size: (width, height)
    in pixels. seeds: one for each picture; its noise is drawn on the CPU, so a picture depends neither on the device's
    generator nor on which others are painted along with it.

    steps, guidance: by default the base's own, see `steps_and_cfg`. guidance: classifier-free guidance scale; at 1 the
    second text is not used, and a step costs half. rescale: how far the guided answer is brought back to the spread of
    the unguided one (Lin et al. 2023, 3.4), by default 0.7 for a zero-terminal-SNR base, which guidance would
    over-expose, and 0 for others. batch_size: pictures at once, by default as many as make a megapixel.
    one_half_at_a_time: two forwards for guidance instead of one of twice the size; slower and in less memory.

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
    at_once = batch_size or pictures_at_once(size)
    device = next(unet.parameters()).device
    cells = (unet.config.in_channels, height // base.latent_factor, width // base.latent_factor)
    framing = torch.tensor([SizeConditioning(height, width, 0, 0, height, width).as_list()], device=device)

    painted = []
    for start in range(0, len(text), at_once):
        part = slice(start, start + at_once)
        noise = torch.stack([_noise(seed, cells) for seed in seeds[part]]).to(device)
        wanted, against = (_stacked(texts, device) for texts in zip(*text[part], strict=True))
        sampler = _sampler(base, steps, device)
        latents = noise * sampler.init_noise_sigma
        # A generator for each, so that what is painted beside a picture does not matter to it.
        renoising = {"generator": [_generator(seed + 1) for seed in seeds[part]]} if _renoised(base) else {}
        for number, timestep in enumerate(sampler.timesteps):
            noisy = sampler.scale_model_input(latents, timestep)
            answer = guided(
                base, unet, noisy, timestep, wanted, against, framing, guidance, rescale, one_half_at_a_time
            )
            latents = sampler.step(answer, timestep, latents, **renoising).prev_sample
            if progress:
                batches = -(-len(text) // at_once)
                progress(start // at_once * len(sampler.timesteps) + number + 1, batches * len(sampler.timesteps))
        painted.append(latents.float().cpu())
    return torch.cat(painted)


def pictures_at_once(size: tuple[int, int]) -> int:
    """How many pictures of `size`, (width, height) in pixels, are painted in one batch: as many as make a megapixel."""
    return min(_PICTURES_AT_ONCE, max(1, _PIXELS_AT_ONCE // (size[0] * size[1])))


@torch.no_grad()
def decode(vae: nn.Module, latents: Tensor) -> list[Image.Image]:
    """The pictures of latents (pictures, channels, h, w), one at a time; in tiles where the card's memory is short."""
    return [_picture(decoded(vae, one[None])) for one in latents]


def decoded(vae: nn.Module, latents: Tensor) -> Tensor:
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


def _picture(values: Tensor) -> Image.Image:
    """values: (3, height, width) in [-1, 1]."""
    if not values.isfinite().all():
        log.warning("A picture holds values that are not numbers (the LoRA may have diverged); they are shown black.")
        values = values.nan_to_num(-1.0)
    bytes_ = ((values / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(bytes_.permute(1, 2, 0).contiguous().numpy())


def _sampler(base: BaseModel, steps: int, device: torch.device):
    """Euler's method, without noise of its own: the one sampler that every base's configuration suits, but for those of
    consistency models, which add noise after every step."""
    from diffusers import EulerDiscreteScheduler, LCMScheduler

    config = dict(base.scheduler_config)
    if base.distilled and _renoised(base):
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


def guided(
    base: BaseModel,
    unet: nn.Module,
    noisy: Tensor,
    timestep: Tensor,
    wanted: TextTensors,
    against: TextTensors,
    framing: Tensor,
    guidance: float,
    rescale: float,
    one_half_at_a_time: bool,
) -> Tensor:
    """The UNet's answer to `noisy`, (pictures, channels, h, w), led towards `wanted` and away from `against`.

    timestep: (); framing: (1, 6); guidance, rescale and one_half_at_a_time: see `sample`.
    """
    n = len(noisy)

    def ask(samples: Tensor, text: TextTensors) -> Tensor:
        times = len(samples)
        return base.predict(unet, samples, timestep.expand(times), text, framing.expand(times, -1))

    if guidance == 1:
        return ask(noisy, wanted)
    if one_half_at_a_time:
        yes, no = ask(noisy, wanted), ask(noisy, against)
    else:
        both = {name: torch.cat([tensor, against[name]]) for name, tensor in wanted.items()}
        yes, no = ask(torch.cat([noisy, noisy]), both).split(n)
    answer = no + guidance * (yes - no)
    if rescale:
        spread = yes.std(dim=(1, 2, 3), keepdim=True) / answer.std(dim=(1, 2, 3), keepdim=True)
        answer = answer * (rescale * spread + (1 - rescale))
    return answer


def _renoised(base: BaseModel) -> bool:
    return base.distilled is not None and base.distilled.renoised


def _noise(seed: int, cells: tuple[int, ...]) -> Tensor:
    return torch.randn(cells, generator=_generator(seed))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def _stacked(texts: Sequence[TextTensors], device: torch.device) -> dict[str, Tensor]:
    return {name: torch.stack([text[name] for text in texts]).to(device) for name in texts[0]}

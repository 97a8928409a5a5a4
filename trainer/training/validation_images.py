"""The sample pictures of a run: the same prompts and seeds with and without the LoRA, side by side."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import nn

from ..atomic_files import atomic_write
from ..config.run_config import RunConfig
from ..device import parked
from ..images.contact_sheet import grid
from ..latents.encode import load_text
from ..lora import adapter
from ..models.base_model import BaseModel
from ..models.memory_saving.vae_tiling import in_tiles
from ..runs.run_folder import Run
from ..sampling.sampler import decode, pictures_at_once, sample
from .prepare_data import Material

_STEPS, _GUIDANCE = 25, 5.0


class Samples:
    """A sample picture never needs more memory than a step: as many are painted at once as are trained on, each half of
    the guidance apart where the pictures of a pair are, and the UNet makes room for the VAE.

    Paints `material.sample_prompts` into <run>/samples/: base-0.png ... once, step-00000200.png as a sheet, and
    newest-0.png ... as the LoRA paints them now."""

    def __init__(self, run: Run, config: RunConfig, material: Material, device: torch.device):
        self._run = run
        self._watch = config.watch
        self._training = config.training
        self._seed = config.training.seed
        self._size = config.data.resolution or material.base.resolution
        self._material = material
        self._device = device

    def paint(self, unet: nn.Module, step: int) -> None:
        """Paint every prompt with the LoRA as it is after `step` steps; does nothing where samples are switched off."""
        prompts = self._material.sample_prompts
        if not prompts or not self._watch.sample_every:
            return
        training = unet.training
        unet.eval()
        base = self._base_pictures(unet)
        painted = base if step == 0 else self._pictures(unet)
        unet.train(training)
        sheet = grid(list(zip(base, painted, strict=True)), captions=prompts, header=("base", f"LoRA, step {step}"))
        file = self._run.samples_folder / f"step-{step:08d}.png"
        _keep(sheet, file)
        for i, picture in enumerate(painted):
            _keep(picture, self._run.samples_folder / f"newest-{i}.png")
        self._run.log("sample", step=step, file=file.name, prompts=prompts)

    def _base_pictures(self, unet: nn.Module) -> list[Image.Image]:
        files = [self._run.samples_folder / f"base-{i}.png" for i in range(len(self._material.sample_prompts))]
        if all(file.is_file() for file in files):
            return [Image.open(file).convert("RGB") for file in files]
        with adapter.disabled(unet):
            pictures = self._pictures(unet)
        for file, picture in zip(files, pictures, strict=True):
            _keep(picture, file)
        return pictures

    def _pictures(self, unet: nn.Module) -> list[Image.Image]:
        material = self._material
        steps, guidance = steps_and_guidance(material.base, self._watch.sample_steps, self._watch.guidance)
        empty = load_text(material.encoded.text(""))
        texts = [(load_text(material.encoded.text(prompt)), empty) for prompt in material.sample_prompts]
        latents = sample(
            material.base,
            unet,
            texts,
            size := (self._size, self._size),
            [self._seed + i for i in range(len(texts))],
            steps=steps,
            guidance=guidance,
            batch_size=min(pictures_at_once(size), self._training.pairs_at_once or self._training.batch_size),
            one_half_at_a_time=self._training.split_pair,
        )
        with parked(unet, self._device):
            vae = material.base.load_vae(self._device)
            if self._training.split_pair:
                in_tiles(vae)
            return decode(vae, latents)


def steps_and_guidance(base: BaseModel, steps: int | None, guidance: float | None) -> tuple[int, float]:
    """With how many steps and how much guidance sample pictures are painted, where nothing else was said."""
    few = base.distilled
    return steps or (few.steps if few else _STEPS), guidance or (1.0 if few else _GUIDANCE)


def _keep(picture: Image.Image, file: Path) -> None:
    with atomic_write(file) as part:
        picture.save(part, "PNG")

"""Validation images of a run: the same prompts and seeds with and without the LoRA, side by side."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import nn

from ..atomic_files import atomic_write
from ..config.run_config import RunConfig
from ..device import offloaded
from ..distributed import SINGLE, World
from ..images.contact_sheet import grid
from ..latents.encode import load_text
from ..lora import adapter
from ..models.memory_saving.vae_tiling import in_tiles
from ..runs.run_folder import Run
from ..sampling.defaults import steps_and_cfg
from ..sampling.sampler import decode, images_per_batch, sample
from .checkpoint import TrainState
from .prepare_data import TrainingData


class ValidationImages:
    """A hook of the loop that generates `data.sample_prompts` into <run>/samples/: base-0.png ... once,
    step-00000200.png as a sheet, and newest-0.png ... with the LoRA as it is now.

    A validation image never needs more memory than a step: as many are generated at once as are trained on, the two
    halves of the guidance one after the other where those of a pair are, and the UNet makes room for the VAE.
    """

    def __init__(
        self,
        run: Run,
        config: RunConfig,
        data: TrainingData,
        unet: nn.Module,
        device: torch.device,
        world: World = SINGLE,
    ):
        self.every = config.watch.sample_every
        self._run = run
        self._watch = config.watch
        self._training = config.training
        self._seed = config.training.seed
        self._size = config.data.resolution or data.base.resolution
        self._data = data
        self._unet = unet
        self._device = device
        self._world = world

    def __call__(self, state: TrainState) -> None:
        self.generate(state.step)

    def generate(self, step: int) -> None:
        """Every prompt with the LoRA as it is after `step` steps; does nothing where samples are switched off."""
        prompts, unet = self._data.sample_prompts, self._unet
        if not prompts or not self.every or not self._world.is_main:
            return
        training = unet.training
        unet.eval()
        base = self._base_images()
        images = base if step == 0 else self._generate()
        unet.train(training)
        sheet = grid(list(zip(base, images, strict=True)), captions=prompts, header=("base", f"LoRA, step {step}"))
        file = self._run.samples_folder / f"step-{step:08d}.png"
        _save(sheet, file)
        for i, image in enumerate(images):
            _save(image, self._run.samples_folder / f"newest-{i}.png")
        self._run.log("sample", step=step, file=file.name, prompts=prompts)

    def _base_images(self) -> list[Image.Image]:
        files = [self._run.samples_folder / f"base-{i}.png" for i in range(len(self._data.sample_prompts))]
        if all(file.is_file() for file in files):
            return [Image.open(file).convert("RGB") for file in files]
        with adapter.disabled(self._unet):
            images = self._generate()
        for file, image in zip(files, images, strict=True):
            _save(image, file)
        return images

    def _generate(self) -> list[Image.Image]:
        data, unet = self._data, self._unet
        steps, guidance = steps_and_cfg(data.base, self._watch.sample_steps, self._watch.guidance)
        empty = load_text(data.encoded.text(""))
        texts = [(load_text(data.encoded.text(prompt)), empty) for prompt in data.sample_prompts]
        latents = sample(
            data.base,
            unet,
            texts,
            size := (self._size, self._size),
            [self._seed + i for i in range(len(texts))],
            steps=steps,
            guidance=guidance,
            batch_size=min(images_per_batch(size), self._training.pairs_at_once or self._training.batch_size),
            sequential_cfg=self._training.split_pair,
        )
        with offloaded(unet, self._device):
            vae = data.base.load_vae(self._device)
            if self._training.split_pair:
                in_tiles(vae)
            return decode(vae, latents)


def _save(image: Image.Image, file: Path) -> None:
    with atomic_write(file) as part:
        image.save(part, "PNG")

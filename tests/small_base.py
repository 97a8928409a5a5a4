"""A base of real, very small models, and pairs of small pictures to encode with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from mapo_studio.trainer.images.crop import CoverCrop
from mapo_studio.trainer.images.decode import open_image
from mapo_studio.trainer.images.image_file import ImageFile
from mapo_studio.trainer.latents.encode import encode
from mapo_studio.trainer.models.base_model import BaseModel
from mapo_studio.trainer.preferences.pairs import Pair
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

CPU = torch.device("cpu")


def small_vae(seed=0):
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.5,
    )
    return vae.eval().requires_grad_(False)


class SmallText:
    """A real CLIP text model with random weights; its tokens are the prompt's characters."""

    def __init__(self):
        torch.manual_seed(1)
        config = CLIPTextConfig(
            vocab_size=256, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
        )
        self.model = CLIPTextModel(config).eval().requires_grad_(False)

    def __call__(self, prompts):
        rows = [list(prompt.encode())[:16] for prompt in prompts]
        tokens = torch.tensor([[*row, *[0] * (16 - len(row))] for row in rows])
        answer = self.model(tokens)
        return [
            {"hidden": hidden, "pooled": pooled}
            for hidden, pooled in zip(answer.last_hidden_state, answer.pooler_output, strict=True)
        ]


@dataclass
class SmallBase(BaseModel):
    """Real small models; `loaded` lists which were asked for."""

    vae_seed: int = 0
    vae_class: object = staticmethod(small_vae)
    text_class: type = SmallText
    text_version: str = "text"
    loaded: list = field(default_factory=list)
    family = "sdxl"
    path = Path("small-base")
    resolution = 64
    latent_factor = 4

    def identity(self, part="all"):
        return {"vae": f"vae{self.vae_seed}", "text": self.text_version}[part]

    def load_text(self, device, dtype):
        self.loaded.append("text")
        return self.text_class()

    def load_vae(self, device):
        self.loaded.append("vae")
        return self.vae_class(self.vae_seed)


def picture(folder, name, size=(64, 64), seed=0):
    """A file of noise; the same for the same seed and size (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / name)
    return ImageFile.at(folder / name, name)


def some_pairs(folder, count=3, sizes=((64, 64), (96, 60), (70, 120))):
    """Chosen pictures of these sizes in turn, each with a square rejected one and a prompt of its own."""
    return [
        Pair(
            f"prompt {number}",
            picture(folder, f"w{number}.png", sizes[number % len(sizes)], 2 * number),
            picture(folder, f"l{number}.png", sizes[0], 2 * number + 1),
        )
        for number in range(count)
    ]


def run(base, pairs, tmp_path, prompts=("a sample",), **options):
    """Encode into a cache below `tmp_path`."""
    options = {"resolution": 64, **options}
    return encode(base, pairs, prompts, tmp_path / "cache", CPU, **options)


def files(tmp_path):
    return sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())


def expected(ref, target, flip=False):
    """Mean and standard deviation as the VAE says them itself, scaled, float32."""
    image = open_image(ref)
    pixels = np.asarray(CoverCrop.fit(image.size, target).apply(image, flip)).astype(np.float32) / 127.5 - 1
    posterior = small_vae().encode(torch.from_numpy(pixels).permute(2, 0, 1)[None]).latent_dist
    return posterior.mean[0] * 0.5, posterior.std[0] * 0.5

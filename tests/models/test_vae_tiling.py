"""Large pictures in tiles: no seams, and tiles that are smaller than the picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from mapo_studio.trainer.demo.shapes_world import captions, draw, dress
from mapo_studio.trainer.models.memory_saving.vae_tiling import SIDE, in_tiles
from mapo_studio.trainer.models.open import open_base
from mapo_studio.trainer.sampling.sampler import decode
from torch import Tensor

CPU = torch.device("cpu")
CONFIGS = Path(__file__).parents[2] / "trainer" / "models" / "configs"


@pytest.fixture(scope="module")
def picture() -> Tensor:
    """Four pictures of the demo's world as one of 128 px, in [-1, 1]."""
    rng = np.random.default_rng(0)
    four = [np.asarray(draw(dress(caption, rng, outline=False))) for caption in captions()[:4]]
    whole = np.concatenate([np.concatenate(four[:2], 1), np.concatenate(four[2:], 1)])
    return torch.from_numpy(whole).permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.fixture
def vae():
    return open_base("tiny").load_vae(CPU)


@torch.no_grad()
def test_tiles_show_the_same_picture_without_seams(vae, picture):
    latents = vae.encode(picture).latent_dist.mean
    whole = vae.decode(latents).sample
    in_tiles(vae, 64)
    tiled = vae.decode(latents).sample
    assert not torch.equal(tiled, whole)
    # No further from the whole than the whole is from the picture that was encoded.
    assert (tiled - whole).abs().mean() < (whole - picture).abs().mean()
    # A seam would be a column, or row, where the picture jumps as nowhere else.
    for axis in (2, 3):
        jump = tiled.diff(dim=axis).abs().mean(dim=(0, 1, 5 - axis)) - whole.diff(dim=axis).abs().mean(
            dim=(0, 1, 5 - axis)
        )
        assert jump.abs().max() < 0.02  # of a range of 2


@torch.no_grad()
def test_what_fits_into_one_tile_stays_whole(vae, picture):
    latents = vae.encode(picture[..., :64, :64]).latent_dist.mean
    whole = vae.decode(latents).sample
    in_tiles(vae, 64)
    assert torch.equal(vae.decode(latents).sample, whole)


@pytest.mark.parametrize("family", ["sdxl", "sd15"])
def test_tiles_of_the_published_models_are_smaller_than_sdxls_pictures(family):
    """diffusers would take tiles of 1024 px for SDXL, and save nothing."""
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(json.loads((CONFIGS / family / "vae" / "config.json").read_text()))
    sizes = []
    vae.decoder.forward = lambda z: sizes.append(z.shape[-1]) or torch.zeros(1, 3, 8 * z.shape[2], 8 * z.shape[3])
    in_tiles(vae)
    vae.decode(torch.zeros(1, 4, 128, 128, device="meta"))
    assert max(sizes) * 8 == SIDE < 1024
    assert len(sizes) == 9


def test_a_short_memory_decodes_in_smaller_tiles(vae, monkeypatch):
    seen = []
    forward = vae.decoder.forward

    def short(z):
        seen.append(z.shape[-1])
        if z.shape[-1] > SIDE // 4:
            raise torch.OutOfMemoryError
        return forward(z)

    monkeypatch.setattr(vae.decoder, "forward", short)
    (picture,) = decode(vae, torch.randn(1, 4, 8, 160))
    assert picture.size == (640, 32)
    assert seen == [160, 128, 64]

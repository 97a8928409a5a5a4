"""VAE tiling: decoding a large image in tiles, where the whole of it needs more memory than a training step.

For pictures to look at. Nothing that is trained on goes through tiles: its latents would be other ones. diffusers has
the tiles, blended over a quarter of their side. But it makes them as large as the pictures that the VAE was trained on,
which for SDXL is the size of the pictures themselves: nothing would be saved.
"""

from __future__ import annotations

from torch import nn

SIDE = 512
"""Pixels. Half of SDXL's side: a quarter of the activations."""


def in_tiles(vae: nn.Module, side: int = SIDE) -> None:
    """Let `vae`, an AutoencoderKL, decode in tiles of `side` pixels; what fits into one stays whole.

    Colours differ a little from those of the whole: its norms and its attention see a tile at a time.
    """
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    vae.enable_tiling()
    vae.tile_sample_min_size = side // factor * factor
    vae.tile_latent_min_size = side // factor

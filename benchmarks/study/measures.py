"""What is measured of a LoRA in the study? Its pictures, read exactly, and its errors on held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mapo_studio.benchmarks.study.worlds import GUIDANCE, SAMPLE_STEPS, World, samples
from mapo_studio.trainer.demo.shapes_world import captions, draw, dress, read, scene_of
from mapo_studio.trainer.latents.encode import EncodedPair
from mapo_studio.trainer.models.base_model import BaseModel
from mapo_studio.trainer.sampling.sampler import decode, sample
from mapo_studio.trainer.training.batches import draw_pair, stack
from mapo_studio.trainer.training.pair_errors import pair_errors
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

CPU = torch.device("cpu")
_LEVELS = (167, 500, 833)


class Painter:
    """Paints captions with a UNet of one base, always from the same noise, and describes pictures in numbers."""

    def __init__(self, base: BaseModel):
        self.base = base
        encoder = base.load_text(CPU, torch.float32)
        *texts, self._against = encoder([*captions(), ""])
        self._texts = dict(zip(captions(), texts, strict=True))
        self._vae = base.load_vae(CPU)

    def paint(self, unet: nn.Module, asked: Sequence[str], each: int) -> list[Image.Image]:
        """`each` pictures of every caption, in order; the same noise for the same place in every trial."""
        every = [caption for caption in asked for _ in range(each)]
        seeds = [10_000 + captions().index(caption) * 10 + i % each for i, caption in enumerate(every)]
        side = self.base.resolution
        text = [(self._texts[caption], self._against) for caption in every]
        latents = sample(
            self.base, unet, text, (side, side), seeds, steps=SAMPLE_STEPS, guidance=GUIDANCE, batch_size=40
        )
        return decode(self._vae, latents)

    @torch.no_grad()
    def features(self, pictures: Sequence[Image.Image]) -> Tensor:
        """(pictures, 128): means and deviations of the latents in 4 x 4 fields: what is where, and how rough."""
        pixels = torch.stack([torch.from_numpy(np.asarray(one.convert("RGB"), np.float32).copy()) for one in pictures])
        latents = self._vae.encode(pixels.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mode()
        latents = latents * self._vae.config.scaling_factor
        mean = avg_pool2d(latents, 4)
        deviation = (avg_pool2d(latents**2, 4) - mean**2).clamp(min=0).sqrt()
        return torch.cat([mean, deviation], dim=1).flatten(1)


class HeldOutErrors:
    """Errors on held-out pairs at fixed noise and levels, beside those of the untouched base."""

    def __init__(self, base: BaseModel, pairs: Sequence[EncodedPair]):
        self._base = base
        rows = [draw_pair(pair, level, "study") for pair in pairs for level in _LEVELS]
        self._batches = [stack(rows[i : i + 24]) for i in range(0, len(rows), 24)]
        self.untouched = self.of(base.load_unet(CPU, torch.float32))

    @torch.no_grad()
    def of(self, unet: nn.Module) -> Tensor:
        """(2, pairs): errors on the chosen and on the rejected pictures, averaged over the levels."""
        found = [pair_errors(self._base, unet, batch, reference=False) for batch in self._batches]
        both = torch.stack([torch.cat([e.chosen for e in found]), torch.cat([e.rejected for e in found])])
        return both.view(2, -1, len(_LEVELS)).mean(dim=2)


def measured(
    world: World,
    work: Path,
    unet: nn.Module,
    painter: Painter,
    asked: Sequence[str],
    held_out: HeldOutErrors,
    each: int = 2,
) -> dict[str, float]:
    """Shares in [0, 1]; errors are mean squared, on held-out pairs.

    preferred: pictures that show the taste; caption: pictures that show what was asked for; both: both at once, which
    is what an artist wants and what settings are chosen by. diversity: mean distance of two pictures of one caption,
    in units of the pixels' range. distance: energy distance of the pictures' features from drawn or sampled pictures
    of the taste for the same captions. gained: held-out pairs whose rejected picture's error rose by more than that of
    the chosen one, against the untouched base; agreement: pairs whose chosen picture has the smaller error.
    """
    pictures = painter.paint(unet, asked, each)
    every = [caption for caption in asked for _ in range(each)]
    readings = [read(picture) for picture in pictures]
    liked = [world.likes(reading) for reading in readings]
    right = [
        reading.agrees_with_caption_of(scene_of(caption)) for reading, caption in zip(readings, every, strict=True)
    ]
    pixels = np.stack([np.asarray(one.convert("RGB"), np.float32) / 255 for one in pictures])
    of_one = pixels.reshape(-1, each, *pixels.shape[1:])
    apart = np.sqrt(np.mean((of_one[:, 0] - of_one[:, -1]) ** 2, axis=(1, 2, 3)))
    chosen, rejected = held_out.of(unet)
    chosen_error_before, rejected_error_before = held_out.untouched
    return {
        "preferred": float(np.mean(liked)),
        "caption": float(np.mean(right)),
        "both": float(np.mean(np.logical_and(liked, right))),
        "clipped": float(np.mean((pixels <= 0) | (pixels >= 1))),
        "diversity": float(apart.mean()),
        "distance": energy_distance(painter.features(pictures), painter.features(_wanted(world, work, asked))),
        "chosen_error": float(chosen.mean()),
        "rejected_error": float(rejected.mean()),
        "chosen_error_before": float(chosen_error_before.mean()),
        "rejected_error_before": float(rejected_error_before.mean()),
        "agreement": float((chosen < rejected).float().mean()),
        "gained": float(((rejected - rejected_error_before) > (chosen - chosen_error_before)).float().mean()),
    }


def mismatch(world: World, work: Path, painter: Painter, held_out: HeldOutErrors, asked: Sequence[str]) -> dict:
    """How far the chosen pictures are from what the base paints, by two measures that do not know the rung.

    feature_distance: energy distance of the chosen pictures' features from the base's own samples' for the same
    captions. error_gap: the base's error on the chosen held-out pictures minus that on the rejected ones (which are its
    own samples).
    """
    own = [Image.open(one.file) for one in samples(work, world) if one.caption in asked]
    chosen, rejected = held_out.untouched
    return {
        "feature_distance": energy_distance(painter.features(_wanted(world, work, asked)), painter.features(own)),
        "error_gap": float((chosen - rejected).mean()),
    }


def energy_distance(a: Tensor, b: Tensor) -> float:
    """2 E|a - b| - E|a - a'| - E|b - b'| over all pairs of rows, without a row's distance to itself (Szekely 2013)."""

    def within(x: Tensor) -> Tensor:
        return torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))

    return float(2 * torch.cdist(a, b).mean() - within(a) - within(b))


def _wanted(world: World, work: Path, asked: Sequence[str]) -> list[Image.Image]:
    """Pictures of the taste for these captions: drawn outlined ones, or the base's own clean ones."""
    if world.wants_outline:
        rng = np.random.default_rng(7)
        return [draw(dress(caption, rng, outline=True)) for caption in asked for _ in range(2)]
    fitting = [one for one in samples(work, world) if one.caption in asked and one.outline is False and one.right]
    return [Image.open(one.file) for one in fitting]

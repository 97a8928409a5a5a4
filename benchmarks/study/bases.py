"""Which bases does the study train on? The tiny base, and copies of it that have seen outlines more or less often.

A rung of the ladder is the share of outlined pictures that its base was trained on last. The tiny base saw 43 %; the
others are trained on from there, all of their weights, on drawn pictures with their own share.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from mapo_studio.trainer.demo.shapes_world import captions, draw, dress
from mapo_studio.trainer.demo.tiny_base import train_base
from mapo_studio.trainer.models.open import TINY_PATH

OWN_SHARE = train_base.OUTLINED_SHARE
"""What the tiny base itself was trained on."""


def base_folder(work: Path, share: float, steps: int) -> Path:
    """The base whose training pictures were outlined in `share` of cases, made where it is not there yet."""
    if share == OWN_SHARE:
        return TINY_PATH
    folder = work / "bases" / f"outlined-{share:g}-{steps}"
    if not (folder / "model_index.json").exists():
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _train_on(part, share, steps)
        part.replace(folder)
    return folder


def _train_on(folder: Path, share: float, steps: int) -> None:
    started = time.time()
    torch.manual_seed(round(share * 1000))
    pipeline = StableDiffusionXLPipeline.from_pretrained(TINY_PATH, torch_dtype=torch.float32, add_watermarker=False)
    encoders = (pipeline.text_encoder, pipeline.text_encoder_2)
    tokenizers = [pipeline.tokenizer, pipeline.tokenizer_2]
    pictures = _drawn(share)
    with torch.no_grad():
        conditions = train_base.encode_captions(encoders, tokenizers)
    latents = train_base.encode_pictures(pipeline.vae, pictures)
    learning = train_base.UnetTraining(pipeline.unet.requires_grad_(True), steps, folder / "unet.pt")
    unet = train_base.train_unet(learning, latents, pictures.caption, conditions, started)
    train_base.write_base(folder, pipeline.vae, encoders, tokenizers, unet)
    for name in ("tokenizer", "tokenizer_2"):  # diffusers writes them without vocab.json and merges.txt
        shutil.copytree(TINY_PATH / name, folder / name, dirs_exist_ok=True)
    (folder / "unet.pt").unlink(missing_ok=True)


def _drawn(share: float, per_caption: int = 24) -> train_base.Pictures:
    rng = np.random.default_rng(round(share * 1000))
    rows = [row for row in range(len(captions())) for _ in range(per_caption)]
    scenes = [dress(captions()[row], rng, outline=bool(rng.random() < share)) for row in rows]
    pixels = np.stack([np.asarray(draw(scene)) for scene in scenes])
    return train_base.Pictures(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.tensor(rows))

"""Encoding speed: pictures a second, beside a plain loop over the same pictures with the same VAE.

    python benchmarks/encode.py BASE [--pictures 16] [--side 256] [--rounds 3] [--json]

On a CPU. BASE: any diffusers folder, for instance one that benchmarks/small_sdxl.py makes. plain: open a picture, scale
it, encode it, torch.save what comes out, then the next. ours: latents/encode.py, which decodes ahead in threads and
writes each entry whole or not at all. Both are timed from the moment that the VAE is loaded until the last picture is
on the disk, in turns; medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mapo_studio.trainer.latents.encode import encode
from mapo_studio.trainer.models.base_model import BaseModel
from mapo_studio.trainer.models.open import open_base
from mapo_studio.trainer.preferences.io.detect_layout import open_pairs
from PIL import Image

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base")
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--side", type=int, default=256, help="that they are trained at, in px; a third larger on disk")
    parser.add_argument("--rounds", type=int, default=3, help="counted ones; one more warms up")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on a line of its own")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rates = measure(open_base(options.base), Path(folder), options.pictures, options.side, options.rounds)
    print(f"{options.pictures} pictures, encoded at {options.side} px; torch {torch.__version__}")
    for name, seen in rates.items():
        print(f"  {name:5} {statistics.median(seen):.2f} pictures/s ({min(seen):.2f} to {max(seen):.2f})")
    if options.json:
        print(json.dumps({"pictures": options.pictures, "side": options.side, "rates": rates}))


def measure(base: BaseModel, folder: Path, pictures: int, side: int, rounds: int) -> dict[str, list[float]]:
    """Pictures a second in every counted round, for "plain" and "ours"."""
    files = write_pictures(folder / "pairs", pictures, side * 4 // 3)
    pairs = open_pairs(folder / "pairs").load().pairs
    vae = base.load_vae(CPU)
    since: list[float] = []

    def loaded(_: torch.device) -> Any:
        since[:] = [time.perf_counter()]
        return vae

    base.load_vae = loaded  # type: ignore[method-assign]
    rates: dict[str, list[float]] = {"plain": [], "ours": []}
    for number in range(rounds + 1):
        begun = time.perf_counter()
        plain(vae, files, folder / f"plain-{number}", side)
        rates["plain"].append(pictures / (time.perf_counter() - begun))
        encode(base, pairs, (), folder / f"cache-{number}", CPU, resolution=side)
        rates["ours"].append(pictures / (time.perf_counter() - since[0]))
    return {name: seen[1:] for name, seen in rates.items()}


def plain(vae: Any, files: list[Path], folder: Path, side: int) -> None:
    folder.mkdir()
    for file in files:
        picture = Image.open(file).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            posterior = vae.encode(pixels).latent_dist
        torch.save({"mean": posterior.mean, "std": posterior.std}, folder / f"{file.stem}.pt")


def write_pictures(folder: Path, pictures: int, side: int) -> list[Path]:
    """PNG files of noise, two of which make a pair, and what says so."""
    folder.mkdir()
    files, rows = [], []
    for number in range(pictures):
        pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3)).astype(np.uint8)
        files.append(folder / f"{number}.png")
        Image.fromarray(pixels).save(files[-1])
        if number % 2:
            row = {"image_0": files[-2].name, "image_1": files[-1].name, "prompt": "noise"}
            rows.append(json.dumps(row | {"prefer_0": True, "prefer_1": False}))
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return files


if __name__ == "__main__":
    main()

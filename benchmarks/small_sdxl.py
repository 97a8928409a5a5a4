"""Small SDXL: a base of its shape with random weights, and judged pairs, where the published one would take a card.

    python benchmarks/small_sdxl.py FOLDER [--pairs 32] [--side 256] [--published]

The UNet has SDXL's depths at a fifth of its widths (64, 128, 256), the VAE a quarter of its own, the text encoders
two layers of 64; with --published all have the published sizes. FOLDER/base is a diffusers folder, FOLDER/pairs a
parquet file of Pick-a-Pic's layout. Runs with old and new versions of diffusers and transformers and imports nothing of
ours: benchmarks/released.py runs it with the libraries of the released script, whose folders every later version reads.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

CONFIGS = Path(__file__).resolve().parents[1] / "trainer" / "models" / "configs" / "sdxl"
WIDTHS = (64, 128, 256)
TEXT_WIDTH = 64
_START, _END = "<|startoftext|>", "<|endoftext|>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--side", type=int, default=256, help="of the pictures, in px")
    parser.add_argument("--published", action="store_true", help="the published model's sizes, for a card")
    options = parser.parse_args()
    write_base(options.folder / "base", options.side, published_parts if options.published else small_parts)
    write_pairs(options.folder / "pairs", options.pairs, options.side)


def write_base(folder: Path, side: int, parts: Callable[[int, int], dict[str, Any]]) -> None:
    torch.manual_seed(0)
    tokenizers = [_tokenizer(folder / name, pad) for name, pad in (("tokenizer", _END), ("tokenizer_2", "!"))]
    StableDiffusionXLPipeline(
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        ),
        **parts(len(tokenizers[0]), side),
    ).save_pretrained(folder)


def small_parts(vocabulary: int, side: int) -> dict[str, Any]:
    return {
        "vae": AutoencoderKL(
            block_out_channels=(32, 64, 128, 128),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=side,
            scaling_factor=0.13025,
        ),
        "text_encoder": _text_encoder(vocabulary, CLIPTextModel),
        "text_encoder_2": _text_encoder(vocabulary, CLIPTextModelWithProjection),
        "unet": UNet2DConditionModel(**unet_shape(side // 8)),
    }


def published_parts(vocabulary: int, side: int) -> dict[str, Any]:
    def config(part: str) -> dict[str, Any]:
        return json.loads((CONFIGS / part / "config.json").read_text(encoding="utf-8"))

    return {
        "vae": _drawn(lambda: AutoencoderKL.from_config(config("vae"))),
        "text_encoder": _drawn(lambda: CLIPTextModel(CLIPTextConfig(**config("text_encoder")))),
        "text_encoder_2": _drawn(lambda: CLIPTextModelWithProjection(CLIPTextConfig(**config("text_encoder_2")))),
        "unet": _drawn(lambda: UNet2DConditionModel.from_config(config("unet"))),
    }


@torch.no_grad()
def _drawn(make: Callable[[], Any]) -> Any:
    """A model in half precision, norms near one and the rest small, as in a trained one: nothing overflows."""
    with torch.device("meta"):
        model = make()
    model = model.to(torch.bfloat16).to_empty(device="cuda" if torch.cuda.is_available() else "cpu")
    for name, weight in model.named_parameters():
        weight.normal_(std=0.02)
        if "norm" in name and name.endswith("weight"):
            weight += 1
    return model.cpu()


def unet_shape(cells: int) -> dict[str, Any]:
    """The UNet's arguments; cells: latent cells along each side."""
    return {
        "sample_size": cells,
        "block_out_channels": WIDTHS,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (1, 2, 4),  # diffusers' name for the number of heads, each 64 wide as in SDXL
        "layers_per_block": 2,
        "cross_attention_dim": 2 * TEXT_WIDTH,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 32,
        "projection_class_embeddings_input_dim": TEXT_WIDTH + 6 * 32,
    }


def write_pairs(folder: Path, pairs: int, side: int) -> None:
    """Noise in two tints; the first picture is chosen in every other pair."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(pairs):
        tints = ((200, 60, 60), (60, 60, 200))
        pictures = [_picture(np.random.default_rng([number, i]), side, tint) for i, tint in enumerate(tints)]
        first = float(number % 2)
        rows.append(
            {
                "jpg_0": pictures[0],
                "jpg_1": pictures[1],
                "label_0": first,
                "label_1": 1 - first,
                "caption": f"a red picture of noise number {number}",
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")


def _picture(random: np.random.Generator, side: int, tint: tuple[int, int, int]) -> bytes:
    pixels = np.clip(random.integers(-40, 40, (side, side, 3)) + np.array(tint), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def _tokenizer(folder: Path, pad: str) -> CLIPTokenizer:
    folder.mkdir(parents=True)
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(letter + "</w>" for letter in letters), _START, _END]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": pad}
    config |= {"bos_token": _START, "eos_token": _END, "unk_token": _END}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return CLIPTokenizer.from_pretrained(folder)


def _text_encoder(vocabulary: int, kind: Any) -> Any:
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        hidden_act="quick_gelu",
        bos_token_id=vocabulary - 2,
        eos_token_id=2,  # as the published models have it: the end token is found as the largest id
        pad_token_id=1,
        architectures=[kind.__name__],
    )
    return kind(config).eval()


if __name__ == "__main__":
    main()

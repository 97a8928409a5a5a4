"""Accuracy of quantization: what does it cost to store the base in fewer bits?

    python benchmarks/quantization.py                 # errors of answers and gradients
    python benchmarks/quantization.py --train         # the demo's training instead, once for each quantization

The errors are those of one MaPO step on a pair of noise: of the UNet's answer (norm of the difference over norm), and
of the LoRA's gradient (cosine over all its numbers), both against float32. Two UNets: the embedded base, whose weights
are trained, and one of SDXL's widths with fewer blocks and normally distributed weights. All compute in float32, so
that what differs is the storage; "bfloat16" is the whole UNet in that dtype, for comparison. A second table stores one
kind of layer of the embedded base alone.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from mapo_studio.trainer.cancellation import StopRequest
from mapo_studio.trainer.config.presets import tiny_settings
from mapo_studio.trainer.config.run_config import parse_config
from mapo_studio.trainer.demo.judge import measure, test_captions, write_pairs
from mapo_studio.trainer.lora import adapter
from mapo_studio.trainer.models.base_model import BaseModel
from mapo_studio.trainer.models.memory_saving.quantize import Quantize, load_weight, to_quantized_empty
from mapo_studio.trainer.models.memory_saving.quantized_layers import (
    FP8,
    INT8,
    NF4,
    QuantizedConv2d,
    QuantizedLinear,
    Rowwise,
)
from mapo_studio.trainer.models.open import open_base
from mapo_studio.trainer.models.sources import CONFIGS, read_json
from mapo_studio.trainer.runs.run_folder import Run
from mapo_studio.trainer.sampling.sampler import generate
from mapo_studio.trainer.training.loop import train
from mapo_studio.trainer.training.objectives import MaPO, PairErrors
from torch import Tensor, nn

CPU = torch.device("cpu")
QUANTIZATIONS: tuple[Quantize, ...] = ("int8", "nf4", "fp8")
FEWER_BLOCKS = {"layers_per_block": 1, "transformer_layers_per_block": [1, 1, 1], "sample_size": 32}
Make = Callable[[Quantize, torch.dtype], nn.Module]


def trained() -> tuple[BaseModel, Make]:
    base = open_base("tiny")
    return base, lambda how, dtype: base.load_unet(CPU, dtype, how)


def of_sdxl_width() -> tuple[BaseModel, Make]:
    """SDXL's layers at their real size, with few of them."""
    config = read_json(CONFIGS / "sdxl" / "unet" / "config.json") | FEWER_BLOCKS

    def make(how: Quantize, dtype: torch.dtype) -> nn.Module:
        with torch.device("meta"):
            bare = UNet2DConditionModel.from_config(config)
        unet = to_quantized_empty(bare, how, dtype, CPU)
        with torch.device("meta"):
            shapes = {
                name: weight.shape for name, weight in UNet2DConditionModel.from_config(config).state_dict().items()
            }
        generator = torch.Generator().manual_seed(0)
        for name, shape in shapes.items():
            norm = "norm" in name.split(".")[-2]
            inputs = max(1, shape[1:].numel())
            weight = torch.randn(shape, generator=generator) * (0.02 if len(shape) == 1 else inputs**-0.5)
            load_weight(unet, name, weight + 1 if norm and name.endswith("weight") else weight)
        return unet

    return open_base("tiny"), make


def step(base: BaseModel, unet: nn.Module) -> tuple[Tensor, Tensor]:
    """The answer to a pair, and the gradient that the pair gives a LoRA which is not at its start."""
    generator = torch.Generator().manual_seed(1)
    config, dtype = unet.config, next(unet.parameters()).dtype
    side = config.sample_size
    clean, noise = (torch.randn(2, 4, side, side, generator=generator) for _ in range(2))
    noise = noise[:1].expand(2, -1, -1, -1)
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    text = {
        "hidden": torch.randn(1, 77, config.cross_attention_dim, generator=generator).expand(2, -1, -1),
        "pooled": torch.randn(1, pooled, generator=generator).expand(2, -1),
    }
    parameters = adapter.attach(unet, adapter.LoraSettings(rank=8, targets="all"), seed=0)
    with torch.no_grad():
        for weight in parameters[1::2]:
            weight.normal_(std=1e-3, generator=generator)
    timestep = torch.tensor([400, 400])
    noisy = base.schedule.add_noise(clean, noise, timestep)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        answer = base.predict(
            unet, noisy, timestep, text, torch.tensor([[side * 8, side * 8, 0, 0, side * 8, side * 8]] * 2)
        )
    errors = (answer.float() - noise).square().flatten(1).mean(1)
    loss = MaPO()(PairErrors(errors[:1], errors[1:])).loss
    gradients = torch.autograd.grad(loss, parameters)
    return answer.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def errors(name: str, base: BaseModel, make: Make) -> None:
    expected, pull = step(base, make("none", torch.float32))
    for label, how, dtype in (
        ("bfloat16", "none", torch.bfloat16),
        *((name, name, torch.float32) for name in QUANTIZATIONS),
    ):
        unet = make(how, dtype)  # type: ignore[arg-type]
        answer, gradient = step(base, unet)
        off = (answer - expected).norm() / expected.norm()
        along = torch.cosine_similarity(gradient, pull, dim=0)
        print(f"| {name} | {label} | {off:.4f} | {along:.4f} |", flush=True)


def by_kind(base: BaseModel, make: Make) -> None:
    """The errors where one kind of layer alone is stored in fewer bits."""
    expected, pull = step(base, make("none", torch.float32))
    plain = Unscaled(torch.float8_e4m3fn, 448.0)
    inner = [name for name, module in make("none", torch.float32).named_modules() if isinstance(module, nn.Linear)]
    inner = [name for name in inner if "embedding" not in name]
    in_blocks = [name for name in inner if not name.endswith(("proj_in", "proj_out", "time_emb_proj"))]
    print("\n| kind of layer | stored as | error of the answer | cosine of the gradient |\n|---|---|---|---|")
    for kind, names, label, packing in (
        ("convolutions", None, "float8, cast", plain),
        ("convolutions", None, "float8, scaled by row (fp8)", FP8),
        ("convolutions", None, "int8, scaled by row (int8)", INT8),
        ("linears", inner, "nf4", NF4),
        ("linears of the transformers' blocks", in_blocks, "nf4", NF4),
    ):
        unet = make("none", torch.float32)
        for name, module in list(unet.named_modules()):
            inside = isinstance(module, nn.Conv2d) and name not in ("conv_in", "conv_out")
            if inside if names is None else name in names:
                weight = module.weight.detach()
                module.__class__ = QuantizedConv2d if names is None else QuantizedLinear
                module.allocate(packing, torch.float32, CPU)
                module.load_weight(weight)
        answer, gradient = step(base, unet)
        off = (answer - expected).norm() / expected.norm()
        along = torch.cosine_similarity(gradient, pull, dim=0)
        print(f"| {kind} | {label} | {off:.4f} | {along:.4f} |", flush=True)


class Unscaled(Rowwise):
    """Rows whose scale is 1: a cast, as diffusers' layerwise casting stores weights."""

    def pack(self, weight: Tensor) -> tuple[Tensor, ...]:
        return weight.to(self.number), weight.new_ones(self.parts(tuple(weight.shape))["scale"][0])


def train_demo(workspace: Path, how: Quantize, seed: int, steps: int) -> tuple[float, float, float]:
    """After the demo's training: shares of pictures as preferred, and with their caption kept; the agreement."""
    values: dict[str, Any] = tiny_settings()
    values["training"] |= {"seed": seed, "steps": steps, "quantize": how}
    values["watch"] |= {"evaluate_every": steps, "sample_every": 0, "checkpoint_every": steps}
    values["data"] = {"pairs": str(workspace / "pairs"), "held_out": 0.2}
    run = Run.create(workspace, parse_config({**values, "name": how, "base": "tiny"}, "benchmark"))
    outcome = train(run, StopRequest(run.stop_file))
    measured = measure(*painted(outcome.lora, seed))
    return measured.outlined, measured.right, outcome.agreement.agreement if outcome.agreement else 0.0


def painted(lora: Path | None, seed: int) -> tuple[list[Any], list[str]]:
    captions, watch = test_captions(seed) * 2, tiny_settings()["watch"]
    return generate(
        open_base("tiny"), captions[:80], lora, steps=watch["sample_steps"], guidance=watch["guidance"]
    ), captions[:80]


def trainings(seed: int, steps: int) -> None:
    print("| stored as | painted as preferred | caption followed | agreement |\n|---|---|---|---|")
    before = measure(*painted(None, seed))
    print(f"| before | {before.outlined:.0%} | {before.right:.0%} | |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        write_pairs(Path(folder) / "pairs", 200, seed)
        for how in ("none", *QUANTIZATIONS):
            outlined, right, agreement = train_demo(Path(folder), how, seed, steps)  # type: ignore[arg-type]
            print(f"| {how} | {outlined:.0%} | {right:.0%} | {agreement:.0%} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", action="store_true", help="train the demo, once for each quantization")
    parser.add_argument("--steps", type=int, default=tiny_settings()["training"]["steps"], help="of each training")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.train:
        trainings(options.seed, options.steps)
        return
    print("| UNet | stored as | error of the answer | cosine of the gradient |\n|---|---|---|---|")
    errors("embedded", *trained())
    errors("SDXL's widths", *of_sdxl_width())
    by_kind(*trained())


if __name__ == "__main__":
    main()

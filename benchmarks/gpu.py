"""How fast is a training step on this card, of which share of what its matrix units can do, and in how much memory?

    python benchmarks/gpu.py [--minutes 9] [--steps 5] [--out gpu.json] [--small]

Needs no network, no model and no pictures: the UNet has the published SDXL's shapes and random weights, which the
arithmetic does not care about; latents and text are noise of the right sizes. Every row is the engine's own step
(trainer/learner.py) at 1024 px, LoRA of rank 16 on attention, one or four pairs at a time: the frozen weights stored
whole or in fewer bits, activations recomputed or kept, blocks compiled or not.

A row's seconds are the median of --steps steps after two that warm up. Its TFLOP are counted by torch on one step, what
is recomputed included; the ceiling is the median rate of large matrix products in the same precision, in the same run.
Peaks are what torch's allocator counts, beside what `mapo plan` counts without a card. Rows come in the order of what
they tell; those for which the minutes no longer suffice are left out and named. --small does the same with a small UNet
and few rows, on a CPU too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from mapo_studio.trainer.batches import PairBatch
from mapo_studio.trainer.config import RunConfig, parse_config
from mapo_studio.trainer.device import DTYPES, abilities, pick_device, pick_precision, release_memory
from mapo_studio.trainer.encode import EncodedPair
from mapo_studio.trainer.families.base import Framing
from mapo_studio.trainer.families.schedule import settled
from mapo_studio.trainer.families.sdxl import SDXL
from mapo_studio.trainer.families.shapes import shapes_of
from mapo_studio.trainer.families.sources import CONFIGS, read_json
from mapo_studio.trainer.learner import Learner
from mapo_studio.trainer.memory import Count
from mapo_studio.trainer.quantize import fill, shell
from torch.utils.flop_counter import FlopCounterMode

_WARM_UP = 2
_TEXT = {"hidden": (77, 2048), "pooled": (1280,)}
_SMALL = {
    "sample_size": 16,
    "block_out_channels": (32, 64, 64),
    "transformer_layers_per_block": (1, 1, 2),
    "attention_head_dim": (1, 2, 2),
    "cross_attention_dim": 64,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 64 + 6 * 8,
}
_SMALL_TEXT = {"hidden": (77, 64), "pooled": (64,)}


@dataclass(frozen=True)
class Row:
    """One way to train. pairs: at a time, which is also a step; the rest as in TrainingConfig."""

    pairs: int
    quantize: str = "none"
    gradient_checkpointing: str = "on"
    compile: str = "off"
    channels_last: str = "off"
    split_pair: bool = False

    def __str__(self) -> str:
        stored = "whole weights" if self.quantize == "none" else self.quantize
        kept = {"on": "recomputed", "off": "kept", "offload": "offloaded"}[self.gradient_checkpointing]
        more = [name for name in ("compile", "channels_last") if getattr(self, name) == "on"]
        return ", ".join([f"{self.pairs} x", stored, kept, *more, *(["split"] if self.split_pair else [])])


@dataclass(frozen=True)
class Figures:
    """Of one row. seconds: a step; tflop: of a step; share: of the ceiling; GiB where the device counts them."""

    seconds: float
    least: float
    most: float
    pairs_a_second: float
    tflop: float
    tflop_a_second: float
    share: float
    first_step: float
    allocated_gib: float | None
    reserved_gib: float | None
    planned_gib: float | None


class RandomWeights:
    """A source (see families/sources.py) of SDXL's shapes whose weights are drawn when the UNet is loaded."""

    path = Path("random")

    def __init__(self, changes: dict[str, Any]) -> None:
        self._changes = changes

    def config(self, component: str) -> dict[str, Any]:
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        whole = read_json(CONFIGS / "sdxl" / component / name)
        return whole | self._changes if component == "unet" else whole

    def unet(self, device: torch.device, dtype: torch.dtype, how: Any = "none") -> torch.nn.Module:
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(self.config("unet"))
        shapes = {name: weight.shape for name, weight in unet.named_parameters()}
        shell(unet, how, dtype, device)
        torch.manual_seed(0)
        for name, shape in shapes.items():
            # Norms near one and the rest small, as in a trained model: nothing overflows.
            spread = torch.randn(shape, device=device) * 0.02
            fill(unet, name, 1 + spread if "norm" in name and name.endswith("weight") else spread)
        return unet.requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9, help="after which no further row is begun")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of a row")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="the JSON file that is written")
    parser.add_argument("--small", action="store_true", help="a small UNet and few rows")
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    device = pick_device(asked.device)
    if device.type == "cpu" and not asked.small:
        sys.exit("there is no card here: --small does the same on a CPU, with a small UNet")
    found = measure(device, asked.small, asked.steps, 60 * asked.minutes)
    asked.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(f"written to {asked.out}")


def measure(device: torch.device, small: bool, steps: int, budget: float) -> dict[str, Any]:
    """The table, printed while it is made. budget: seconds after which no row is begun that would not fit."""
    began = time.perf_counter()
    precision = pick_precision("auto", device)
    ceiling = matmul_ceiling(device, DTYPES[precision], 1024 if small else 8192)
    print(f"{abilities(device).name} in {precision}, torch {torch.__version__}; matrix products: {ceiling:.3g} TFLOP/s")
    print("| step | s | least to most | pairs/s | TFLOP | TFLOP/s | of ceiling | first step, s | peak, GiB | planned |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    results, left_out, longest = [], [], 0.0
    for row in rows(small):
        begun = time.perf_counter()
        if begun - began + longest > budget:
            left_out.append(str(row))
            continue
        try:
            figures = figures_of(row, device, precision, ceiling, small, steps)
        except torch.OutOfMemoryError:
            print(f"| {row} | out of memory |", flush=True)
            results.append({**asdict(row), "out_of_memory": True})
        else:
            print(f"| {row} | {line(figures)} |", flush=True)
            results.append({**asdict(row), **asdict(figures)})
        release_memory(device)
        longest = max(longest, time.perf_counter() - begun)
    if left_out:
        print("left out for want of time: " + "; ".join(left_out))
    return {
        "device": abilities(device).name,
        "precision": precision,
        "torch": torch.__version__,
        "side": side(small),
        "ceiling_tflop_a_second": ceiling,
        "rows": results,
        "left_out": left_out,
        "seconds": time.perf_counter() - began,
    }


def rows(small: bool) -> Iterator[Row]:
    """What tells most comes first."""
    if small:
        yield from (Row(1), Row(2), Row(1, "nf4", split_pair=True))
        return
    for compiled in ("off", "on"):
        yield from (Row(pairs, compile=compiled) for pairs in (4, 1))
        yield Row(1, gradient_checkpointing="off", compile=compiled)
    yield Row(4, compile="on", channels_last="on")
    for quantize in ("nf4", "int8", "fp8"):
        yield Row(1, quantize)
    yield Row(1, "nf4", "offload", split_pair=True)
    for quantize in ("nf4", "int8", "fp8"):
        yield Row(4, quantize, compile="on")
        yield Row(1, quantize, compile="on")
    yield Row(4, gradient_checkpointing="off")
    yield Row(4, channels_last="on")


def figures_of(row: Row, device: torch.device, precision: str, ceiling: float, small: bool, steps: int) -> Figures:
    source = RandomWeights(_SMALL if small else {})
    base = SDXL(source, settled(source.config("scheduler"), "auto"))
    taken = batch(row.pairs, small).to(device)
    _settle(device)
    learner = Learner(config_of(row, precision), base, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def step(number: int) -> float:
        begun = time.perf_counter()
        learner.learn(number, [taken])
        _settle(device)
        return time.perf_counter() - begun

    warm = [step(number) for number in range(_WARM_UP)]
    times = [step(_WARM_UP + number) for number in range(steps)]
    peaks = (None, None)
    if device.type == "cuda":
        peaks = torch.cuda.max_memory_allocated(device) / 2**30, torch.cuda.max_memory_reserved(device) / 2**30
    tflop = flop_of(lambda: learner.learn(_WARM_UP + steps, [taken]), row) / 1e12
    planned = None if device.type == "cpu" else planned_gib(row, precision, small)
    seconds = statistics.median(times)
    rate = tflop / seconds
    pace = row.pairs / seconds
    return Figures(seconds, min(times), max(times), pace, tflop, rate, rate / ceiling, warm[0], *peaks, planned)


_counted: dict[tuple[int, bool, str], float] = {}


def flop_of(step: Callable[[], object], row: Row) -> float:
    """Floating-point operations of a step; a compiled one does those of the same step that is not."""
    kind = row.pairs, row.split_pair, row.gradient_checkpointing
    if kind not in _counted:
        with FlopCounterMode(display=False) as counter, torch.compiler.set_stance("force_eager"):
            step()
        _counted[kind] = counter.get_total_flops()
    return _counted[kind]


def planned_gib(row: Row, precision: str, small: bool) -> float | None:
    """The peak that `mapo plan` counts for the step, of the published shapes only."""
    if small:
        return None
    return Count(shapes_of("sdxl")).of(config_of(row, precision)).peak / 2**30


def config_of(row: Row, precision: str) -> RunConfig:
    settings = asdict(row)
    training = {"batch_size": settings.pop("pairs"), "accumulation": 1, "precision": precision, **settings}
    adapter = {"rank": 16, "targets": "attention"}
    return parse_config({"name": "gpu", "adapter": adapter, "training": training}, "benchmark")


def batch(pairs: int, small: bool) -> PairBatch:
    pixels, cells = side(small), side(small) // 8
    framing, nowhere = Framing(pixels, pixels, 0, 0, pixels, pixels), Path()
    text = _SMALL_TEXT if small else _TEXT
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(3, pairs, 4, cells, cells, generator=generator)
    return PairBatch(
        pairs=(EncodedPair(None, (pixels, pixels), framing, nowhere, nowhere, nowhere),) * pairs,  # type: ignore[arg-type]
        chosen=latents[0],
        rejected=latents[1],
        noise=latents[2],
        timestep=torch.randint(1000, (pairs,), generator=generator),
        text={name: torch.randn(pairs, *shape, generator=generator) for name, shape in text.items()},
        framing=torch.tensor([framing.as_list()] * pairs, dtype=torch.float32),
        preference=torch.ones(pairs),
        weight=torch.ones(pairs),
    )


def side(small: bool) -> int:
    """Of the pictures, in px."""
    return 128 if small else 1024


def matmul_ceiling(device: torch.device, dtype: torch.dtype, width: int) -> float:
    """TFLOP/s of products of square matrices, the median of ten after three that warm up."""
    one, other = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(13):
        begun = time.perf_counter()
        one @ other
        _settle(device)
        times.append(time.perf_counter() - begun)
    return 2 * width**3 / statistics.median(times[3:]) / 1e12


def line(figures: Figures) -> str:
    of = figures
    memory = "-" if of.allocated_gib is None else f"{of.allocated_gib:.2f} ({of.reserved_gib:.2f} reserved)"
    planned = "-" if of.planned_gib is None else f"{of.planned_gib:.2f}"
    spread = f"{of.least:.3f} to {of.most:.3f}"
    rate = f"{of.tflop:.3g} | {of.tflop_a_second:.3g} | {of.share:.0%}"
    return (
        f"{of.seconds:.3f} | {spread} | {of.pairs_a_second:.2f} | {rate} | {of.first_step:.1f} | {memory} | {planned}"
    )


def _settle(device: torch.device) -> None:
    """Wait until all that was asked of the device is done."""
    if device.type in ("cuda", "xpu", "mps"):
        getattr(torch, device.type).synchronize()


if __name__ == "__main__":
    main()

"""Training step on this card: its speed, its share of what the matrix units can do, and its memory.

    python benchmarks/gpu.py [--minutes 9] [--steps 5] [--out gpu.json] [--small]
                             [--released CLONE [--released-python PYTHON]]

Needs no network, no model and no pictures: the UNet has the published SDXL's shapes and random weights, which the
arithmetic does not care about; latents and text are noise of the right sizes. Every row is the engine's own step
(training/learner.py) at 1024 px: one or four pairs at a time with a LoRA of rank 16 on attention, the frozen weights
stored whole or in fewer bits, activations recomputed or kept, blocks compiled or not; and the presets as they are, four
pairs a step with the LoRA they are counted with.

A row's seconds are the median of --steps steps after two that warm up. Its TFLOP are counted by torch on one step, what
is recomputed included; the ceiling is the median rate of large matrix products in the same precision, in the same run.
"of 24 or 36" is the share of it that would be 24 TFLOP a pair with activations kept, 36 with them recomputed. Peaks are
what torch's allocator counts, beside what `mapo plan` counts without a card. With --released, a clone of the released
script, it is run first (see released_on_card.py), and each row says how many times as many pairs a second it does as
the script with as many pairs a step, and in which share of its memory.

Rows come in the order of what they tell; those for which the minutes no longer suffice are left out and named. --small
does the same with a small UNet and few rows, on a CPU too.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from mapo_studio.benchmarks.released_on_card import Theirs, theirs
from mapo_studio.benchmarks.small_sdxl import TEXT_WIDTH, unet_shape
from mapo_studio.trainer.config.presets import apply, preset_named, presets
from mapo_studio.trainer.config.run_config import RunConfig, parse_config
from mapo_studio.trainer.device import capabilities, pick_device, pick_precision, release_memory, torch_dtype
from mapo_studio.trainer.memory_estimate.estimate import MemoryEstimator, batch_of
from mapo_studio.trainer.models.memory_saving.quantize import load_weight, to_quantized_empty
from mapo_studio.trainer.models.meta_models import shapes_of
from mapo_studio.trainer.models.noise_schedule import resolve_prediction_type
from mapo_studio.trainer.models.sdxl import SDXL
from mapo_studio.trainer.models.sources import CONFIGS, read_json
from mapo_studio.trainer.training.learner import Learner
from torch.utils.flop_counter import FlopCounterMode

_WARM_UP = 2
_COUNTING = 4
"""Processes that count what is planned."""
_COLUMNS = (
    *("step", "s", "least to most", "pairs/s", "TFLOP", "TFLOP/s", "of ceiling", "of 24 or 36", "first step, s"),
    *("peak, GiB", "planned", "off", "pairs/s over released", "memory over released"),
)
_TEXT = {"hidden": (77, 2048), "pooled": (1280,)}
_SMALL_TEXT = {"hidden": (77, 2 * TEXT_WIDTH), "pooled": (TEXT_WIDTH,)}


@dataclass(frozen=True)
class Row:
    """Settings of a measured training. pairs: a step, and at a time but with a preset, whose settings are all its own;
    the rest as in TrainingConfig."""

    pairs: int
    preset: str = ""
    quantize: str = "none"
    gradient_checkpointing: str = "on"
    compile: str = "off"
    split_pair: bool = False

    def __str__(self) -> str:
        if self.preset:
            return f"{self.pairs} x, preset {self.preset}"
        stored = "whole weights" if self.quantize == "none" else self.quantize
        kept = {"on": "recomputed", "off": "kept", "offload": "offloaded"}[self.gradient_checkpointing]
        more = ["compile"] if self.compile == "on" else []
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
    of_plan: float | None
    """Measured over planned peak, less one."""
    nominal_share: float | None
    """Of the ceiling, at 24 TFLOP a pair or 36 with recomputation; SDXL at 1024 px only."""
    over_released: float | None = None
    memory_over_released: float | None = None


class RandomWeights:
    """A source (see trainer/models/sources.py) of SDXL's shapes whose weights are drawn when the UNet is loaded."""

    path = Path("random")
    names = ("random",)

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
        to_quantized_empty(unet, how, dtype, device)
        torch.manual_seed(0)
        for name, shape in shapes.items():
            # Norms near one and the rest small, as in a trained model: nothing overflows.
            spread = torch.randn(shape, device=device) * 0.02
            load_weight(unet, name, 1 + spread if "norm" in name and name.endswith("weight") else spread)
        return unet.requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9, help="after which no further row is begun")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of a row")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="the JSON file that is written")
    parser.add_argument("--small", action="store_true", help="a small UNet and few rows")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--released", type=Path, help="a clone of the released script, to be measured beside ours")
    parser.add_argument("--released-python", default=sys.executable, help="the Python that has its libraries")
    parser.add_argument("--folder", type=Path, default=Path(".cache/gpu"), help="for what the released script needs")
    options = parser.parse_args()
    device = pick_device(options.device)
    if device.type == "cpu" and not options.small:
        sys.exit("there is no card here: --small does the same on a CPU, with a small UNet")
    began, beside = time.perf_counter(), {}
    if options.released:
        for pairs in (1,) if options.small else (4, 1):
            where = options.folder.resolve() / ("small" if options.small else "published")
            run = theirs(
                options.released, options.released_python, where, side(options.small), pairs, small=options.small
            )
            if run:
                beside[pairs] = run
                print(
                    f"released script, {pairs} x: {run.seconds:.3f} s a step, {run.pairs_a_second:.2f} pairs/s, peak "
                    f"{run.peak_gib:.2f} GiB",
                    flush=True,
                )
    spent = time.perf_counter() - began
    results = measure(device, options.small, options.steps, 60 * options.minutes - spent, beside)
    options.out.write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(f"written to {options.out}")


def measure(
    device: torch.device, small: bool, steps: int, budget: float, beside: dict[int, Theirs] | None = None
) -> dict[str, Any]:
    """The table, printed while it is made. budget: seconds after which no row is begun that would not fit.

    beside: the released script's figures, by its pairs a step.
    """
    began = time.perf_counter()
    precision = pick_precision("auto", device)
    ceiling = matmul_ceiling(device, torch_dtype(precision), 1024 if small else 8192)
    print(
        f"{capabilities(device).name} in {precision}, torch {torch.__version__}; matrix products: {ceiling:.3g} TFLOP/s"
    )
    print("| " + " | ".join(_COLUMNS) + " |")
    print("|---" * len(_COLUMNS) + "|")
    results, left_out, longest = [], [], 0.0
    # In processes of their own, beside the card's work.
    counting = None if small else ProcessPoolExecutor(_COUNTING, multiprocessing.get_context("spawn"))
    plans = {row: counting.submit(planned_gib, row, precision) for row in rows(small)} if counting else {}
    for row in rows(small):
        begun = time.perf_counter()
        if begun - began + longest > budget:
            left_out.append(str(row))
            continue
        try:
            figures = figures_of(row, device, precision, ceiling, small, steps)
            figures = compared(figures, row, plans.get(row), (beside or {}).get(row.pairs))
        except torch.OutOfMemoryError:
            print(f"| {row} | out of memory |", flush=True)
            results.append({**asdict(row), "out_of_memory": True})
        else:
            print(f"| {row} | {line(figures)} |", flush=True)
            results.append({**asdict(row), **asdict(figures)})
        release_memory(device)
        longest = max(longest, time.perf_counter() - begun)
    if counting:
        counting.shutdown(wait=False, cancel_futures=True)
    if left_out:
        print("left out for want of time: " + "; ".join(left_out))
    return {
        "device": capabilities(device).name,
        "precision": precision,
        "torch": torch.__version__,
        "side": side(small),
        "ceiling_tflop_a_second": ceiling,
        "rows": results,
        "left_out": left_out,
        "released": [asdict(run) for run in (beside or {}).values()],
        "seconds": time.perf_counter() - began,
    }


def rows(small: bool) -> Iterator[Row]:
    """What tells most comes first."""
    if small:
        yield from (Row(1), Row(2), Row(1, quantize="nf4", split_pair=True), Row(4, "4 GB"))
        return
    for compiled in ("off", "on"):
        yield from (Row(pairs, compile=compiled) for pairs in (4, 1))
        yield Row(1, gradient_checkpointing="off", compile=compiled)
    yield from (Row(4, preset.name) for preset in presets())
    for quantize in ("nf4", "int8", "fp8"):
        yield Row(1, quantize=quantize)
    yield Row(1, quantize="nf4", gradient_checkpointing="offload", split_pair=True)
    for quantize in ("nf4", "int8", "fp8"):
        yield Row(4, quantize=quantize, compile="on")
        yield Row(1, quantize=quantize, compile="on")
    yield Row(4, gradient_checkpointing="off")


def figures_of(row: Row, device: torch.device, precision: str, ceiling: float, small: bool, steps: int) -> Figures:
    source = RandomWeights(unet_shape(side(small) // 8) if small else {})
    base = SDXL(source, resolve_prediction_type(source.config("scheduler"), "auto"))
    config = config_of(row, precision)
    at_once = config.training.batch_size
    torch.manual_seed(0)
    text = _SMALL_TEXT if small else _TEXT
    taken = [batch_of(at_once, side(small), base, text, device, torch.randn)] * config.training.accumulation
    _settle(device)
    learner = Learner(config, base, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def step(number: int) -> float:
        begun = time.perf_counter()
        learner.train_step(number, taken)
        _settle(device)
        return time.perf_counter() - begun

    warm = [step(number) for number in range(_WARM_UP)]
    times = [step(_WARM_UP + number) for number in range(steps)]
    peaks = (None, None)
    if device.type == "cuda":
        peaks = torch.cuda.max_memory_allocated(device) / 2**30, torch.cuda.max_memory_reserved(device) / 2**30
    tflop = flop_of(lambda: learner.train_step(_WARM_UP + steps, taken), row) / 1e12
    seconds = statistics.median(times)
    rate = tflop / seconds
    pace = row.pairs / seconds
    recomputed = config.training.gradient_checkpointing != "off"
    nominal = None if small else pace * (36 if recomputed else 24) / ceiling
    spread = min(times), max(times)
    return Figures(seconds, *spread, pace, tflop, rate, rate / ceiling, warm[0], *peaks, None, None, nominal)


def compared(figures: Figures, row: Row, plan: Future[float] | None, released: Theirs | None) -> Figures:
    """`figures` beside what was planned, and beside the released script with as many pairs a step."""
    changes = {}
    if plan is not None and figures.allocated_gib is not None:
        planned = plan.result()
        changes = {"planned_gib": planned, "of_plan": figures.allocated_gib / planned - 1}
    if released is not None:
        changes["over_released"] = figures.pairs_a_second / released.pairs_a_second
        if figures.allocated_gib is not None:
            changes["memory_over_released"] = figures.allocated_gib / released.peak_gib
    return replace(figures, **changes)


_counted: dict[tuple[int, bool, str, str], float] = {}


def flop_of(step: Callable[[], object], row: Row) -> float:
    """Floating-point operations of a step; a compiled one does those of the same step that is not."""
    kind = row.pairs, row.split_pair, row.gradient_checkpointing, row.preset
    if kind not in _counted:
        with FlopCounterMode(display=False) as counter, torch.compiler.set_stance("force_eager"):
            step()
        _counted[kind] = counter.get_total_flops()
    return _counted[kind]


def planned_gib(row: Row, precision: str) -> float:
    """The peak that `mapo plan` counts for the step, of the published shapes."""
    torch.set_num_threads(1)
    return MemoryEstimator(shapes_of("sdxl")).estimate(config_of(row, precision)).step_peak / 2**30


def config_of(row: Row, precision: str) -> RunConfig:
    if row.preset:
        named = parse_config({"name": "gpu", "training": {"precision": precision}}, "benchmark")
        return apply(named, preset_named(row.preset))
    settings = asdict(row)
    settings.pop("preset")
    training = {"batch_size": settings.pop("pairs"), "accumulation": 1, "precision": precision, **settings}
    adapter = {"rank": 16, "targets": "attention"}
    return parse_config({"name": "gpu", "adapter": adapter, "training": training}, "benchmark")


def side(small: bool) -> int:
    """Of the pictures, in px."""
    return 64 if small else 1024


def matmul_ceiling(device: torch.device, dtype: torch.dtype, width: int) -> float:
    """TFLOP/s of products of square matrices, the median of ten after three that warm up."""
    a, b = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(13):
        begun = time.perf_counter()
        a @ b
        _settle(device)
        times.append(time.perf_counter() - begun)
    return 2 * width**3 / statistics.median(times[3:]) / 1e12


def line(figures: Figures) -> str:
    of = figures

    def shown(value: float | None, how: str) -> str:
        return "-" if value is None else format(value, how)

    memory = shown(of.allocated_gib, ".2f") + ("" if of.reserved_gib is None else f" ({of.reserved_gib:.2f} reserved)")
    return " | ".join(
        [
            *(f"{of.seconds:.3f}", f"{of.least:.3f} to {of.most:.3f}", f"{of.pairs_a_second:.2f}", f"{of.tflop:.3g}"),
            *(f"{of.tflop_a_second:.3g}", f"{of.share:.0%}", shown(of.nominal_share, ".0%"), f"{of.first_step:.1f}"),
            *(memory, shown(of.planned_gib, ".2f"), shown(of.of_plan, "+.0%")),
            *(shown(of.over_released, ".2f"), shown(of.memory_over_released, ".2f")),
        ]
    )


def _settle(device: torch.device) -> None:
    """Wait until the device has done all its work."""
    if device.type in ("cuda", "xpu", "mps"):
        getattr(torch, device.type).synchronize()


if __name__ == "__main__":
    main()

"""Speed beside the released MaPO script, unmodified, on the same base, pairs and settings.

    python benchmarks/released.py [--clone PATH] [--folder .cache/released] [--rounds 6] [--threads N] [--json]

On a CPU. The script is cloned from its public repository unless --clone names a clone; it runs with libraries of its
time in an environment of its own, made once in --folder (some 2 GB). The base is SDXL-shaped with random weights, see
small_sdxl.py; its pairs are squares already, so all train on the same pixels. One pair a step, rank 8 on attention,
activations recomputed, 8-bit Adam, float32; the third training is ours with its blocks compiled besides.

All trainings live at once and take turns of a few steps (see paced.py), so that a machine that slows down slows all.
The first turn of each warms up and is not counted. Theirs decodes, encodes and embeds every pair in every step; ours
did so before the first, which is timed apart and added once for each pair in the last figure: what a training costs
that shows every pair once only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mapo_studio.trainer.config.run_config import parse_config, write_config

HERE = Path(__file__).resolve().parent
PUBLIC = "https://github.com/mapo-t2i/mapo"
LIBRARIES = (
    "torch==2.13.0",
    "diffusers==0.29.2",
    "transformers==4.41.2",
    "peft==0.11.1",
    "accelerate==0.31.0",
    "datasets==2.20.0",
    "numpy==2.2.*",
    "pyarrow==19.*",
    "bitsandbytes==0.50.2",
    "pillow",
    "tensorboard",
)
PAIRS, SIDE, RANK, RATE = 16, 256, 8, 1e-5


@dataclass
class Side:
    """One training and what was seen of it: seconds of each counted step, by the clock and of the processor."""

    process: subprocess.Popen[str]
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    encoding: float = 0.0
    peak: int = 0

    def turn(self, *, counted: bool) -> None:
        """Let it take its steps, and wait until it has."""
        times = self._read()
        while "wall" not in times:  # ours says first how long it encoded
            self.encoding = times["encoding"] / PAIRS
            times = self._read()
        if counted:
            self.wall += times["wall"]
            self.cpu += times["cpu"]
        self.peak = times["peak"]

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait(60)

    def _read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            sys.exit(f"a training ended before its time: {' '.join(self.process.args)}")  # type: ignore[arg-type]
        return json.loads(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clone", type=Path, help=f"a clone of {PUBLIC}")
    parser.add_argument("--folder", type=Path, default=HERE.parent / ".cache" / "released", help="for all that is made")
    parser.add_argument("--rounds", type=int, default=6, help="counted turns of each")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each training")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on a line of its own")
    options = parser.parse_args()
    folder = options.folder.resolve()
    python = environment(folder / "env")
    sides = measure(folder, clone_of(options.clone, folder), python, options.rounds, options.threads)
    report(sides, options.threads, options.json)


def environment(folder: Path) -> Path:
    """The Python of an environment with the script's libraries. torchvision comes without the torch it was made for."""
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *LIBRARIES], check=True)
        subprocess.run([*pip, "--no-deps", "torchvision==0.28.0"], check=True)
        (folder / "made").touch()
    return python


def clone_of(given: Path | None, folder: Path) -> Path:
    clone = (given or folder / "mapo").resolve()
    if not clone.exists():
        subprocess.run(["git", "clone", "--quiet", PUBLIC, str(clone)], check=True)
    return clone


def measure(folder: Path, clone: Path, python: Path, rounds: int, threads: int) -> dict[str, Side]:
    """The trainings by name, after taking turns."""
    models, work = folder / "models", folder / "work"
    if not models.exists():
        made = [str(python), str(HERE / "small_sdxl.py"), str(models), "--pairs", str(PAIRS), "--side", str(SIDE)]
        subprocess.run(made, check=True, capture_output=True)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    sides = {}
    ours = [sys.executable, HERE / "paced.py", "ours"]
    with (work / "log.txt").open("w") as log:
        for name, command in {
            "released": [python, HERE / "paced.py", "released", clone, *their_arguments(models, work)],
            "ours": [*ours, our_settings(models, work, compiled=False), work / "ours"],
            "ours, compiled": [*ours, our_settings(models, work, compiled=True), work / "compiled"],
        }.items():
            quiet = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True}
            side = Side(subprocess.Popen([str(part) for part in command], env=quiet, **pipes))
            side.turn(counted=False)  # until its first step was taken
            sides[name] = side
        for number in range(rounds + 1):
            for side in sides.values():
                side.go_on()
                side.turn(counted=number > 0)
        for side in sides.values():
            side.end()
    return sides


def their_arguments(
    models: Path, work: Path, side: int = SIDE, pairs: int = 1, rank: int = RANK, more: Sequence[str] = ()
) -> list[str]:
    options = {
        "pretrained_model_name_or_path": models / "base",
        "output_dir": work / "theirs",
        "cache_dir": work / "theirs" / "cache",
        "dataset_name": models / "pairs",
        "dataset_split_name": "train",
        "resolution": side,
        "train_batch_size": pairs,
        "gradient_accumulation_steps": 1,
        "learning_rate": RATE,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "max_train_steps": 100_000,
        "checkpointing_steps": 100_000,
        "seed": 0,
        "lora_rank": rank,
    }
    switches = ["--gradient_checkpointing", "--use_8bit_adam", "--no_hflip", *more]
    return [*(f"--{name}={value}" for name, value in options.items()), *switches]


def our_settings(models: Path, work: Path, *, compiled: bool) -> Path:
    name = "compiled" if compiled else "ours"
    config = {
        "name": name,
        "base": str(models / "base"),
        "data": {"pairs": str(models / "pairs"), "held_out": 0, "resolution": SIDE},
        "adapter": {"rank": RANK, "targets": "attention"},
        "objective": {"margin_weight": 0.1, "temperature": 1000.0, "error_scale": 0.5},  # as released
        "optimization": {
            "optimizer": "adamw8bit",
            "learning_rate": RATE,
            "schedule": "constant",
            "warmup_steps": 0,
            "beta2": 0.999,
        },
        "training": {
            "steps": 100_000,
            "batch_size": 1,
            "accumulation": 1,
            "precision": "float32",
            "gradient_checkpointing": "on",
            "compile": "on" if compiled else "off",
            "device": "cpu",
        },
        "watch": {"evaluate_every": 0, "sample_every": 0, "checkpoint_every": 100_000},
    }
    file = work / f"{name}.toml"
    file.write_text(write_config(parse_config(config, "benchmark")))
    return file


def report(sides: dict[str, Side], threads: int, as_json: bool) -> None:
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    theirs = sides["released"]
    print(f"{machine}; {threads} threads each, {len(theirs.wall)} counted steps each, in turns")
    print("| training | a step, s | middle half | processor, s | encoding a pair, s | peak memory, MiB |")
    print("|---|---|---|---|---|---|")
    for name, side in sides.items():
        low, middle, high = statistics.quantiles(side.wall, n=4)
        processor, encoding = (
            statistics.median(side.cpu),
            f"{side.encoding:.2f}, once" if side.encoding else "in the step",
        )
        row = f"{middle:.2f} | {low:.2f} to {high:.2f} | {processor:.2f} | {encoding} | {side.peak / 2**20:.0f}"
        print(f"| {name} | {row} |")
    for name, side in sides.items():
        if side is not theirs:
            wall, processor = times_as_fast(theirs.wall, side.wall), times_as_fast(theirs.cpu, side.cpu)
            once = times_as_fast(theirs.wall, [second + side.encoding for second in side.wall])
            print(
                f"{name}: {wall:.2f} times as fast by the clock, {processor:.2f} by the processor's time (which other"
            )
            print(f"  work on the machine changes less), {once:.2f} where every pair is encoded for one step only")
    if as_json:
        facts = {
            name: {"wall": side.wall, "cpu": side.cpu, "encoding": side.encoding, "peak": side.peak}
            for name, side in sides.items()
        }
        print(json.dumps({"machine": machine, "threads": threads, **facts}))


def times_as_fast(theirs: list[float], ours: list[float]) -> float:
    return statistics.median(theirs) / statistics.median(ours)


if __name__ == "__main__":
    main()

"""Start-up time: processor seconds until each face answers, and which imports take them.

    python benchmarks/startup.py

Processor time, which hardly depends on what else runs here: the median of --times starts.
The share of a package is that of the lines of its own modules, by `python -X importtime`.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil

MAPO = [str(Path(__file__).parents[1] / "trainer" / "__main__.py")]
LOOP = (
    "from mapo_studio.trainer.models.fast_start import load_model_libraries; load_model_libraries(); "
    "import mapo_studio.trainer.training.loop"
)
LORA = """
import sys, torch
from mapo_studio.trainer.lora.adapter import LoraSettings, attach
from mapo_studio.trainer.lora.file import write_lora
from mapo_studio.trainer.models.open import open_base
unet = open_base("tiny").load_unet(torch.device("cpu"), torch.float32)
attach(unet, LoraSettings(), seed=0)
write_lora(sys.argv[1], unet, LoraSettings(), "sdxl")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--imports", type=int, default=4, help="The largest imports that are named.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lora, workspace = str(Path(folder) / "lora.safetensors"), str(Path(folder) / "workspace")
        subprocess.run([sys.executable, "-c", LORA, lora], check=True, stderr=subprocess.DEVNULL)
        studio = ["studio", "--no-browser", "--workspace", workspace]
        starts: dict[str, tuple[list[str], Callable[[subprocess.Popen[str]], float]]] = {
            "mapo --help": ([*MAPO, "--help"], to_the_end),
            "mapo train --help": ([*MAPO, "train", "--help"], to_the_end),
            "mapo lora show": ([*MAPO, "lora", "show", lora], to_the_end),
            "mapo doctor, first line": ([*MAPO, "doctor", "--workspace", workspace], to_the_first_line),
            "the training loop": (["-c", LOOP], to_the_end),
            "mapo studio, first page": ([*MAPO, *studio], to_the_page),
        }
        for name, (command, until) in starts.items():
            seconds = [start(command, until)[0] for _ in range(options.times)]
            shares = largest_imports(start(["-X", "importtime", *command], until)[1], options.imports)
            print(f"{name:26} {statistics.median(seconds):5.2f} s   {shares}", flush=True)


def start(command: list[str], until: Callable[[subprocess.Popen[str]], float]) -> tuple[float, str]:
    """Processor seconds until then, and what the process wrote to standard error."""
    with tempfile.TemporaryFile("w+") as stderr:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
        process = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
        )
        try:
            seconds = until(process)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        stderr.seek(0)
        return seconds, stderr.read()


def to_the_end(process: subprocess.Popen[str]) -> float:
    process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{process.args} failed")
    return used.ru_utime + used.ru_stime


def to_the_first_line(process: subprocess.Popen[str]) -> float:
    if not process.stdout.readline():
        raise SystemExit(f"{process.args} printed nothing")
    return used_so_far(process)


def to_the_page(process: subprocess.Popen[str]) -> float:
    for line in process.stdout:
        if address := re.search(r"http://[\w.:]+/", line):
            urllib.request.urlopen(address[0]).read()
            return used_so_far(process)
    raise SystemExit(f"{process.args} named no address")


def used_so_far(process: subprocess.Popen[str]) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


def largest_imports(log: str, count: int) -> str:
    """Of `python -X importtime`: the packages whose modules took most themselves, with their share of all imports."""
    packages: dict[str, int] = {}
    for microseconds, name in re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", log, re.MULTILINE):
        package = name.partition(".")[0]
        packages[package] = packages.get(package, 0) + int(microseconds)
    whole = sum(packages.values()) or 1
    largest = sorted(packages, key=packages.__getitem__, reverse=True)[:count]
    return ", ".join(f"{name} {packages[name] / whole:.0%}" for name in largest)


if __name__ == "__main__":
    main()

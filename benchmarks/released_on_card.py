"""Speed and memory of the released MaPO script, unmodified, where gpu.py measures ours.

gpu.py asks this with --released. The script runs in a process of its own, with the Python and the libraries that are
named for it, on a base of the same shapes and pictures of the same size (small_sdxl.py); what is timed, and how, is
released.py's: whole steps, with the decoding, encoding and embedding of pictures that it does in each.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mapo_studio.benchmarks.released import HERE, Side, their_arguments

_PAIRS_THERE = 8


@dataclass(frozen=True)
class Theirs:
    """pairs: a step; seconds: a step, the median; peak_gib: of the card's memory, or of the process on a CPU."""

    pairs: int
    seconds: float
    pairs_a_second: float
    peak_gib: float


def theirs(clone: Path, python: str, folder: Path, side: int, pairs: int, *, small: bool) -> Theirs | None:
    """Its training at one number of pairs a step; None, with a line that says where to look, where it does not run.

    folder: for the base, made once, and what it writes. side: of the pictures, in px. The first five steps warm up.
    """
    models, work = folder / "models", folder / f"{pairs}-pairs"
    work.mkdir(parents=True, exist_ok=True)
    log_file = work / "log.txt"
    script, base = HERE / "small_sdxl.py", [] if small else ["--published"]
    made = [python, script, models, "--pairs", str(_PAIRS_THERE), "--side", str(side), *base]
    precision = "no" if small else "bf16"
    more = [f"--mixed_precision={precision}"]
    command = [python, HERE / "paced.py", "released", clone.resolve()]
    command += their_arguments(models, work, side, pairs, 16, more)
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with log_file.open("w") as log:
        try:
            if not models.exists():
                subprocess.run([str(part) for part in made], check=True, stdout=log, stderr=log)
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True}
            seen = Side(subprocess.Popen([str(part) for part in command], env=quiet, **pipes))
            seen.turn(counted=False)  # until its first step was taken
            for counted in (False, True):
                seen.go_on()
                seen.turn(counted=counted)
            seen.end()
        except (subprocess.CalledProcessError, SystemExit):
            print(f"the released script did not run with {pairs} pairs: see {log_file}", file=sys.stderr)
            return None
    seconds = statistics.median(seen.wall)
    return Theirs(pairs, seconds, pairs / seconds, seen.peak / 2**30)

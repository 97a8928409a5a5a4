"""Paced training: runs it unchanged, some steps at a time, and times each: one side of benchmarks/released.py.

    python benchmarks/paced.py released CLONE ARGUMENT ...    the released script, in an environment of its own
    python benchmarks/paced.py ours RUN_TOML WORKSPACE        our training, as `mapo train` does it

Neither side's code is changed. Each calls something once a step (theirs Accelerator.log, ours StepMetrics.add); a
call there is timed, and after every STEPS of them one JSON line is printed and a line on the standard input waited for:
the time until then belongs to the other side. An empty line means go on, the end of the input means stop.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import runpy
import sys
import time
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

STEPS = 5
"""Steps of a turn."""


def main() -> None:
    side, *rest = sys.argv[1:]
    # What a library prints must not come between the lines that are read.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    pace = _Pace(lambda **facts: print(json.dumps(facts), file=output, flush=True))
    if side == "released":
        _released(Path(rest[0]), rest[1:], pace)
    else:
        _ours(Path(rest[0]), Path(rest[1]), pace)


class _Pace:
    """Times what comes between two calls of `tick`, and reports it to `say` turn by turn."""

    def __init__(self, say: Callable[..., None]) -> None:
        self.say = say
        self._wall: list[float] = []
        self._cpu: list[float] = []
        self._since: tuple[float, float] | None = None

    def tick(self) -> None:
        if self._since is not None:  # the first call only starts the clock: what came before is no step alone
            self._wall.append(time.perf_counter() - self._since[0])
            self._cpu.append(time.process_time() - self._since[1])
        if self._since is None or len(self._wall) == STEPS:
            self.say(wall=self._wall, cpu=self._cpu, peak=_peak())
            self._wall, self._cpu = [], []
            if not sys.stdin.readline():
                os._exit(0)
        self._since = time.perf_counter(), time.process_time()


def _peak() -> int:
    """Bytes, of the card's memory where there is one, as torch's allocator counts it, else of the process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _released(clone: Path, arguments: list[str], pace: _Pace) -> None:
    import torch

    # torchvision's wheels are made for another build of torch: its own operators are missing, and unused here.
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    # Imported by the script whether it is reported to or not.
    sys.modules["wandb"] = importlib.util.module_from_spec(ModuleSpec("wandb", None))
    import accelerate

    _count(accelerate.Accelerator, "log", pace)
    sys.argv = ["train_with_lora.py", *arguments]
    sys.path.insert(0, str(clone))
    os.chdir(clone)
    runpy.run_path("train_with_lora.py", run_name="__main__")


def _ours(settings: Path, workspace: Path, pace: _Pace) -> None:
    from mapo_studio.trainer.cancellation import StopRequest
    from mapo_studio.trainer.config.run_config import read_config
    from mapo_studio.trainer.runs.run_folder import Run
    from mapo_studio.trainer.training import loop
    from mapo_studio.trainer.training.metrics import StepMetrics

    run = Run.create(workspace, read_config(settings))
    prepare = loop.prepare

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter(), time.process_time()
        made = prepare(*args, **kwargs)
        pace.say(encoding=time.perf_counter() - began[0], encoding_cpu=time.process_time() - began[1])
        return made

    loop.prepare = timed
    _count(StepMetrics, "add", pace)
    loop.train(run, StopRequest(run.stop_file))


def _count(kind: type, method: str, pace: _Pace) -> None:
    before = getattr(kind, method)

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        answer = before(self, *args, **kwargs)
        pace.tick()
        return answer

    setattr(kind, method, counted)


if __name__ == "__main__":
    main()

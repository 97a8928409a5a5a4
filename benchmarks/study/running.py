"""How is a plan carried out? Part by part, in several processes, from where it was left."""

from __future__ import annotations

import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from mapo_studio.benchmarks.study.plan import Job, Plan, Results


def carry_out(plan: Plan, work: Path, out: Path, workers: int) -> Results:
    """Do what `out` does not hold yet, part by part, and return everything."""
    work.mkdir(parents=True, exist_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    results = Results.read(out)
    started = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        for name, part in plan.parts.items():
            todo = [job for job in part(results) if job.key not in results.by_key]
            print(f"{name}: {len(todo)} to do", flush=True)
            futures = {pool.submit(_done, job, work): job for job in todo}
            for number, future in enumerate(as_completed(futures), 1):
                line = {"part": name, **future.result()}
                results.add(line)
                with out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                minutes = (time.monotonic() - started) / 60
                print(f"{minutes:6.1f} min  {name} {number}/{len(todo)}  {_said(line)}", flush=True)
    return results


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _done(job: Job, work: Path) -> dict[str, Any]:
    return job.run(work)


def _said(line: dict[str, Any]) -> str:
    names = ("arm", "learning_rate", "knobs", "pairs", "noise", "seed", "steps", "both", "preferred", "caption")
    world = line["world"]
    told = " ".join(f"{name} {line[name]}" for name in names if name in line)
    return f"{world['ladder']} {world['share']:g}  {told}"

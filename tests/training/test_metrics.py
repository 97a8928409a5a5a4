"""When the metrics of steps are written, and what their seconds count."""

from types import SimpleNamespace

import pytest
import torch
from mapo_studio.trainer.config.run_config import parse_config
from mapo_studio.trainer.runs.run_folder import Run
from mapo_studio.trainer.training import metrics
from mapo_studio.trainer.training.metrics import METRICS, StepMetrics

VALUES = torch.arange(1.0, len(METRICS) + 1)


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path, parse_config({"name": "cats", "base": "tiny", "data": {"pairs": "p"}}, ""))


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(metrics, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def take(collected: StepMetrics, clock, *steps: int, seconds: float = 2.0) -> None:
    for step in steps:
        clock.now += seconds
        collected.add(step, VALUES, 1e-4, [])


def written(run: Run) -> list[int]:
    return [event["step"] for event in run.events()]


def seconds(run: Run) -> list[float]:
    return [event["seconds"] for event in run.events()]


def test_the_first_step_is_written_at_once_and_the_others_together(run, clock):
    collected = StepMetrics(run, 10, every=4)
    take(collected, clock, 6)  # resumed there
    assert written(run) == [6]
    take(collected, clock, 7)
    assert written(run) == [6]
    take(collected, clock, 8)
    assert written(run) == [6, 7, 8]
    event = list(run.events())[-1]
    assert [event[name] for name in METRICS] == VALUES.tolist()
    assert (event["seconds"], event["remaining"]) == (2.0, 4.0)
    collected.flush()
    assert written(run) == [6, 7, 8], "nothing is written twice"


def test_a_pause_is_no_time_of_a_step_also_where_the_metrics_are_written_within_it(run, clock):
    collected = StepMetrics(run, 10, every=4)
    take(collected, clock, 1, 2)
    with collected.paused():
        clock.now += 50  # an evaluation, and then a checkpoint, which writes what is there
        collected.flush()
        clock.now += 30
    take(collected, clock, 3, 4)
    assert seconds(run) == [2.0] * 4

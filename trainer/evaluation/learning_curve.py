"""How many more pairs? Trainings like a run's on a quarter and on half of its pairs, and where their course leads.

<workspace>/runs/<name>/learning-curve.json    what came of it
<workspace>/curves/<name>.<pairs>/             a training that is not finished, to be gone on with
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..atomic_files import write_text
from ..cancellation import Cancelled, StopRequest
from ..config.run_config import RunConfig
from ..errors import UserError
from ..jobs.find_run import read_digest, training_digest, write_digest
from ..runs.run_folder import Event, Run
from ..sampling.task_settings import TaskSettings
from .forecast import Forecast, Measured, forecast

if TYPE_CHECKING:
    from ..jobs.worker import Work

PARTS = (4, 2, 1)
"""The trainings are on a fourth, on half and on all of the pairs: twice as many each time, as is asked about."""
FEWEST_PAIRS = 16
"""With fewer to train on, a fourth of them is no set of pairs."""
_SHELF = "curves"


@dataclass(frozen=True)
class Curve:
    """What was measured. steps: of each training; measured: with the fewest pairs first."""

    steps: int
    measured: tuple[Measured, ...]

    def forecast(self) -> Forecast:
        return forecast(self.measured)

    def sentences(self) -> list[str]:
        """For a person: what was measured, what follows, and what that leaves out."""
        return [
            "; ".join(map(str, self.measured)) + ".",
            self.forecast().sentence() + ".",
            f"Each number of pairs was trained on once, {self.steps} steps long: another seed would draw the course a "
            "little differently, and that is not in the interval.",
        ]


class CurveSettings(TaskSettings):
    """Of which run, and how long each training is."""

    run: str = Field(min_length=1)
    """A run that has finished."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps of each training, by default the run's: then the run itself is the one on all pairs."""


def read_curve(run: Run) -> Curve | None:
    """What was measured for `run`; None where nothing was, or its file is damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads(_result(run).read_text(encoding="utf-8"))
        measured = tuple(Measured(**one) for one in told["measured"])
        if len(measured) > 1 and len({len(one.agreeing) for one in measured}) == 1 and measured[0].agreeing:
            return Curve(int(told["steps"]), measured)
    return None


def measure_curve(
    run: Run,
    stop: StopRequest,
    steps: int | None = None,
    listen: Callable[[Event], None] = lambda event: None,
    tell: Callable[[int, int, str], None] = lambda *_: None,
) -> Curve:
    """Train on nested parts of the run's pairs, measure each on the same held-out pairs, keep and report the result.

    All trainings are equally long, so that only the pairs differ; they use the run's settings, seed and cache. What is
    finished is not trained again, and what was stopped goes on. listen: is given the events of the trainings; tell:
    (steps done, of all, what it does). To be called by whoever has the device.

    Raises UserError where there are too few pairs or none is held out, Cancelled where it was asked to stop.
    """
    config = run.config()
    steps = steps or config.training.steps
    sizes = _sizes(run, config)
    measured: dict[int, Measured] = {}
    for number, pairs in enumerate(sizes):

        def told(event: Event, before: int = number, pairs: int = pairs) -> None:
            listen(event)
            if event["event"] == "step":
                tell(before * steps + event["step"], len(sizes) * steps, f"training on {pairs} pairs")

        asked = _config(run, config, pairs, steps)
        tell(number * steps, len(sizes) * steps, f"training on {pairs} pairs")
        own = _of_run(run, config, steps) if pairs == sizes[-1] else None
        measured[pairs] = Measured(pairs, own or _trained(run, asked, stop, told))
    curve = Curve(steps, tuple(measured.values()))
    if len({len(one.agreeing) for one in curve.measured}) > 1:
        raise UserError("the pairs were changed while this was measured: start it again")
    write_text(_result(run), json.dumps(asdict(curve), indent=1))
    for pairs in sizes:
        shutil.rmtree(_folder(run, pairs), ignore_errors=True)
    _report(run)
    return curve


def check(workspace: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings whole. Raises UserError naming what is wrong or missing."""
    asked = CurveSettings.given(settings)
    run = Run.open(workspace, asked.run)
    _sizes(run, run.config())
    return asked.plain()


def run(work: Work) -> str:
    """The task of a face."""
    asked = CurveSettings.given(work.settings)
    trained = Run.open(work.workspace, asked.run)
    curve = measure_curve(trained, _Asking(work), asked.steps, tell=lambda *told: _tell(work, *told))
    return curve.forecast().sentence()


class _Asking(StopRequest):
    """A task is asked to end by a pause, too; a training then saves and ends as for a stop."""

    def __init__(self, work: Work):
        super().__init__(work.task.stop_file)
        self._work = work

    def __bool__(self) -> bool:
        return bool(self._work.stop) or self._work.task.pause_file.exists()


def _tell(work: Work, done: int, total: int, what: str) -> None:
    # Told from within a step, where it must not end: the training sees for itself that it is asked to.
    with suppress(Cancelled):
        work.tell(done, total, what)


def _sizes(run: Run, config: RunConfig) -> list[int]:
    from ..training.prepare_data import divided, pairs_of

    split = divided(pairs_of(config, run.workspace), config)
    if len(split.train) < FEWEST_PAIRS:
        raise UserError(
            f"{run.name} has {len(split.train)} pairs to train on: training on parts of them needs {FEWEST_PAIRS} at "
            "least, so judge some more"
        )
    if not split.held_out:
        raise UserError(f"no pair of {run.name} is held out, so nothing can be measured: collect pairs of more prompts")
    return [len(split.train) // part for part in PARTS]


def _config(run: Run, config: RunConfig, pairs: int, steps: int) -> RunConfig:
    """The run's settings on fewer pairs: measured once at the end, no pictures."""
    return config.model_copy(
        update={
            "name": f"{run.name}.{pairs}",
            "data": config.data.model_copy(update={"most_pairs": pairs}),
            "training": config.training.model_copy(update={"steps": steps}),
            "watch": config.watch.model_copy(update={"evaluate_every": steps, "sample_every": 0}),
        }
    )


def _of_run(run: Run, config: RunConfig, steps: int) -> str | None:
    """What the run itself came to, where it was trained on these very pairs and as long; else None."""
    from ..models.safetensors_file import read_header
    from ..training.prepare_data import pairs_of

    with suppress(UserError, OSError):
        pairs = pairs_of(config, run.workspace)
        if read_header(run.lora_file).metadata.get("mapo.pairs_hash") == pairs.fingerprint:
            return _measured_at(run, steps)
    return None


def _trained(run: Run, config: RunConfig, stop: StopRequest, listen: Callable[[Event], None]) -> str:
    """Train what `config` says, or go on with it, and return which held-out pairs agree at the end."""
    from ..reports.report import report_at_end
    from ..training.loop import train_locked

    folder = _folder(run, config.data.most_pairs or 0)
    digest = training_digest(run.workspace, config)
    part = Run(folder)
    if read_digest(part) != digest:
        shutil.rmtree(folder, ignore_errors=True)
        part = Run.create(run.workspace, config, parent=_SHELF)
        write_digest(part, digest)
    if (agreeing := _measured_at(part, config.training.steps)) is not None:
        return agreeing
    part.listeners.extend([listen, report_at_end(part)])
    with part.alone():
        stop.check()
        outcome = train_locked(part, stop)
    if not outcome.finished:
        raise Cancelled
    agreeing = _measured_at(part, config.training.steps)
    assert agreeing is not None, "a finished training is measured at its last step"
    return agreeing


def _measured_at(run: Run, step: int) -> str | None:
    found = (event for event in run.events() if event["event"] == "evaluation" and event["step"] == step)
    return next((str(event["agreeing"]) for event in found if event.get("agreeing")), None)


def _folder(run: Run, pairs: int) -> Path:
    return run.workspace / _SHELF / f"{run.name}.{pairs}"


def _result(run: Run) -> Path:
    return run.folder / "learning-curve.json"


def _report(run: Run) -> None:
    from ..reports.report import write_report

    write_report(run)

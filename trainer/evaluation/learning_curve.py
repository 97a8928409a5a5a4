"""Learning curve: trainings like a run's on a quarter and half of its pairs, and what twice as many would bring.

<workspace>/runs/<name>/learning-curve.json    what came of it
<workspace>/curves/<name>.<pairs>/             a training that is not finished, to be resumed
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ..atomic_files import write_text
from ..cancellation import Cancelled, StopRequest
from ..config.run_config import RunConfig
from ..errors import UserError
from ..intervals import wilson_interval
from ..jobs.find_run import read_digest, training_digest, write_digest
from ..jobs.kind import JobContext
from ..runs.run_folder import Event, Run
from ..sampling.task_settings import TaskSettings
from ..text import format_interval

PARTS = (4, 2, 1)
"""The trainings are on a fourth, on half and on all of the pairs: twice as many each time, as is asked about."""
MIN_PAIRS = 16
"""With fewer to train on, a fourth of them is no set of pairs."""
MIN_HELD_OUT = 20
"""Below it one pair more or less is five points: nothing can be read from such steps."""
_FOLDER = "curves"
_BOOTSTRAPS = 4000
_NEARLY_NOTHING = 0.02

ListenerOf = Callable[[Run], Callable[[Event], None]]

Verdict = Literal["more", "little", "perfect", "few", "unlearned", "open"]


@dataclass(frozen=True)
class CurvePoint:
    """A training on `pairs` pairs. agreeing: a sign for each held-out pair, in order, 1 where it agrees."""

    pairs: int
    agreeing: str

    @property
    def agreement(self) -> float:
        return self.agreeing.count("1") / len(self.agreeing)

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.agreeing.count("1"), len(self.agreeing))

    def __str__(self) -> str:
        return f"{self.pairs} pairs: {format_interval(self.agreement, *self.interval)}"


@dataclass(frozen=True)
class Forecast:
    """What twice as many pairs would add to the agreement: `gain`, with its 95 % interval, all as shares.

    says: "more" where it is sure to rise; "little" where it is sure to change by next to nothing; "perfect" where it
    agrees on every held-out pair already; "few" where too few are held out; "unlearned" where all the pairs do not
    lift it above tossing a coin yet; "open" where it cannot be told.
    """

    pairs: int
    held_out: int
    gain: float
    low: float
    high: float
    says: Verdict

    def sentence(self) -> str:
        """For a person, without its full stop."""
        twice = f"twice as many pairs ({2 * self.pairs})"
        low, high = round(100 * self.low), round(100 * self.high)
        if self.says == "few":
            return (
                f"What more pairs would bring cannot be told from {self.held_out} held-out pairs: keep more aside "
                "(`--held-out`), or judge pairs of more prompts"
            )
        if self.says == "unlearned":
            return (
                f"Trained on all {self.pairs} pairs it does not agree with you more than tossing a coin would: what "
                "more pairs would bring cannot be told before it learns something from these"
            )
        if self.says == "perfect":
            return (
                f"It agrees on all {self.held_out} held-out pairs already: whether {twice} would make it surer still "
                "cannot be seen in them"
            )
        if self.says == "little":
            return f"More pairs of the same kind would hardly help: with {twice} expect {low:+d} to {high:+d} points"
        if self.says == "more":
            return f"With {twice} expect about {_points(round(100 * self.gain))} more ({max(0, low)}-{high})"
        return (
            f"Whether more pairs would help cannot be told from {self.held_out} held-out pairs: with {twice} the "
            f"agreement may change by anything from {low:+d} to {high:+d} points"
        )


@dataclass(frozen=True)
class LearningCurve:
    """What was measured. steps: of each training; measured: with the fewest pairs first."""

    steps: int
    measured: tuple[CurvePoint, ...]

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


def read_curve(run: Run) -> LearningCurve | None:
    """What was measured for `run`; None where nothing was, or its file is damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        values = json.loads(_result_file(run).read_text(encoding="utf-8"))
        measured = tuple(CurvePoint(**point) for point in values["measured"])
        if len(measured) > 1 and len({len(point.agreeing) for point in measured}) == 1 and measured[0].agreeing:
            return LearningCurve(int(values["steps"]), measured)
    return None


def measure_curve(
    run: Run,
    stop: StopRequest,
    steps: int | None = None,
    listen: Callable[[Event], None] = lambda event: None,
    report_progress: Callable[[int, int, str], None] = lambda *_: None,
    listener_of: ListenerOf | None = None,
) -> LearningCurve:
    """Train on nested parts of the run's pairs, measure each on the same held-out pairs, and keep the result.

    All trainings are equally long, so that only the pairs differ; they use the run's settings, seed and cache. What is
    finished is not trained again, and what was stopped is resumed. listen: is given the events of the trainings;
    report_progress: (steps done, of all, what it does); listener_of: makes a listener of each training's own run. To be
    called by whoever has the device, and who writes the run's report anew afterwards.

    Raises UserError where there are too few pairs or none is held out, Cancelled where it was asked to stop.
    """
    config = run.config()
    steps = steps or config.training.steps
    sizes = _sizes(run, config)
    measured: dict[int, CurvePoint] = {}
    for number, pairs in enumerate(sizes):

        def on_event(event: Event, done: int = number * steps, pairs: int = pairs) -> None:
            listen(event)
            if event["event"] == "step":
                report_progress(done + event["step"], len(sizes) * steps, f"training on {pairs} pairs")

        report_progress(number * steps, len(sizes) * steps, f"training on {pairs} pairs")
        agreeing = _agreeing_of_run(run, config, steps) if pairs == sizes[-1] else None
        if agreeing is None:
            part = _open_part(run, _part_config(run, config, pairs, steps))
            part.listeners.extend([on_event, *([listener_of(part)] if listener_of else [])])
            agreeing = _train_part(part, stop)
        measured[pairs] = CurvePoint(pairs, agreeing)
    curve = LearningCurve(steps, tuple(measured.values()))
    if len({len(point.agreeing) for point in curve.measured}) > 1:
        raise UserError("the pairs were changed while this was measured: start it again")
    write_text(_result_file(run), json.dumps(asdict(curve), indent=1))
    for pairs in sizes:
        shutil.rmtree(_part_folder(run, pairs), ignore_errors=True)
    return curve


def check(workspace: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings whole. Raises UserError naming what is wrong or missing."""
    curve = CurveSettings.given(settings)
    run = Run.open(workspace, curve.run)
    _sizes(run, run.config())
    return curve.plain()


def run(context: JobContext, listener_of: ListenerOf | None = None) -> str:
    """The work of a job. listener_of: see `measure_curve`."""
    settings = CurveSettings.given(context.settings)

    def report_progress(done: int, total: int, message: str) -> None:
        # Called within a step, where it must not end: the training looks by itself whether it is asked to.
        with suppress(Cancelled):
            context.report_progress(done, total, message)

    run = Run.open(context.workspace, settings.run)
    stop = _StopOrPause(context)
    curve = measure_curve(run, stop, settings.steps, report_progress=report_progress, listener_of=listener_of)
    return curve.forecast().sentence()


class _StopOrPause(StopRequest):
    """A job is asked to end by a pause, too; a training then saves and ends as for a stop."""

    def __init__(self, context: JobContext):
        super().__init__(context.job.stop_file)
        self._context = context

    def __bool__(self) -> bool:
        return self._context.stop_requested


def _sizes(run: Run, config: RunConfig) -> list[int]:
    from ..training.prepare_data import pairs_of, split_pairs

    split = split_pairs(pairs_of(config, run.workspace), config)
    if len(split.train) < MIN_PAIRS:
        raise UserError(
            f"{run.name} has {len(split.train)} pairs to train on: training on parts of them needs {MIN_PAIRS} at "
            "least, so judge some more"
        )
    if not split.held_out:
        raise UserError(f"no pair of {run.name} is held out, so nothing can be measured: collect pairs of more prompts")
    return [len(split.train) // part for part in PARTS]


def _part_config(run: Run, config: RunConfig, pairs: int, steps: int) -> RunConfig:
    """The run's settings on fewer pairs: measured once at the end, no images."""
    return config.model_copy(
        update={
            "name": f"{run.name}.{pairs}",
            "data": config.data.model_copy(update={"max_pairs": pairs}),
            "training": config.training.model_copy(update={"steps": steps}),
            "watch": config.watch.model_copy(update={"evaluate_every": steps, "sample_every": 0}),
        }
    )


def _agreeing_of_run(run: Run, config: RunConfig, steps: int) -> str | None:
    """Which held-out pairs agree after the run itself, if it was trained on these very pairs and as long; else None."""
    from ..models.safetensors_file import read_header
    from ..training.prepare_data import pairs_of

    with suppress(UserError, OSError):
        pairs = pairs_of(config, run.workspace)
        if read_header(run.lora_file).metadata.get("mapo.pairs_hash") == pairs.fingerprint:
            return _agreeing_at(run, steps)
    return None


def _open_part(run: Run, config: RunConfig) -> Run:
    """The training that `config` says: the one begun before, if it is of the same settings and pairs, or a new one."""
    folder = _part_folder(run, config.data.max_pairs or 0)
    digest = training_digest(run.workspace, config)
    part = Run(folder)
    if read_digest(part) != digest:
        shutil.rmtree(folder, ignore_errors=True)
        part = Run.create(run.workspace, config, parent=_FOLDER)
        write_digest(part, digest)
    return part


def _train_part(part: Run, stop: StopRequest) -> str:
    """Train it, or resume it, and return which held-out pairs agree at the end."""
    from ..training.loop import train_locked

    steps = part.config().training.steps
    if (agreeing := _agreeing_at(part, steps)) is not None:
        return agreeing
    with part.locked():
        stop.check()
        outcome = train_locked(part, stop)
    if not outcome.finished:
        raise Cancelled
    agreeing = _agreeing_at(part, steps)
    assert agreeing is not None, "a finished training is measured at its last step"
    return agreeing


def _agreeing_at(run: Run, step: int) -> str | None:
    evaluations = (event for event in run.events() if event["event"] == "evaluation" and event["step"] == step)
    return next((str(event["agreeing"]) for event in evaluations if event.get("agreeing")), None)


def _part_folder(run: Run, pairs: int) -> Path:
    return run.workspace / _FOLDER / f"{run.name}.{pairs}"


def _result_file(run: Run) -> Path:
    return run.folder / "learning-curve.json"


def forecast(points: Sequence[CurvePoint]) -> Forecast:
    """Continue the course of the errors (1 - agreement) as a power of the number of pairs, to twice the largest.

    Test errors of learners fall so over wide ranges (Hestness et al. 2017, arXiv 1712.00409). The interval is of the
    held-out pairs alone, resampled with replacement, the same for every training (a paired bootstrap); each training
    is one draw of its seed, which is not in it. points: at least two sizes, on the same held-out pairs.
    """
    points = sorted(points, key=lambda point: point.pairs)
    signs = np.array([[int(sign) for sign in point.agreeing] for point in points])
    pairs, held_out = points[-1].pairs, signs.shape[1]
    sizes = np.log([point.pairs for point in points])
    rows = np.random.default_rng(0).integers(0, held_out, (_BOOTSTRAPS, held_out))
    resampled = _gain(sizes, held_out - signs[:, rows].sum(axis=2).T, held_out)
    gain = float(_gain(sizes, held_out - signs.sum(axis=1)[None], held_out)[0])
    low, high = (float(end) for end in np.percentile(resampled, (2.5, 97.5)))
    says: Verdict = "open"
    if held_out < MIN_HELD_OUT:
        says = "few"
    elif points[-1].interval[0] <= 0.5:
        says = "unlearned"
    elif signs[-1].all():
        says = "perfect"
    elif low > -_NEARLY_NOTHING and high <= _NEARLY_NOTHING:
        says = "little"
    elif low >= 0:
        says = "more"
    return Forecast(pairs, held_out, gain, low, high, says)


def _gain(sizes: np.ndarray, misses: np.ndarray, held_out: int) -> np.ndarray:
    """By how much the error falls from the largest size to twice that. sizes: (n,) logarithms; misses: (draws, n)."""
    # Half a miss more, or an error of nothing would have no logarithm.
    errors = np.log((misses + 0.5) / (held_out + 1))
    apart = sizes - sizes.mean()
    slope = (errors @ apart) / (apart @ apart)
    at_largest = np.exp(errors.mean(axis=1) + slope * apart[-1])
    return at_largest - at_largest * 2**slope


def _points(number: int) -> str:
    return "1 point" if number == 1 else f"{number} points"

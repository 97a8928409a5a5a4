"""Job kinds: every kind of job that is not a training, by name. Faces start them here, and their processes run here."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..config.dataset_uri import dataset_named
from ..errors import UserError
from ..evaluation import learning_curve
from ..evaluation.candidates import GENERATE
from ..evaluation.generate_comparison import COMPARE
from ..evaluation.pair_margins import RATE
from ..evaluation.rejected_from_base import TARGETS
from ..evaluation.strength_sweep import SWEEP
from ..jobs import kind as jobs
from ..jobs import worker
from ..jobs.job import Job
from ..jobs.kind import JobContext, JobKind
from ..reports.report import report_at_end, write_report
from ..runs.run_folder import Run


def start(workspace: Path, kind: str, settings: Mapping[str, Any]) -> Job:
    """Start a job of a kind. Raises UserError where there is no such kind, or for settings that cannot be."""
    if kind not in KINDS:
        raise UserError(f"there is no task of the kind {kind!r}: known are {', '.join(KINDS)}")
    return jobs.start(workspace, KINDS[kind], settings)


def run_job(folder: Path) -> int:
    """Do the work of the job in `folder`, see `worker.run_job`."""
    return worker.run_job(folder, KINDS)


def rate_unjudged_pairs(run: Run) -> None:
    """Start the rating of its dataset's unjudged pairs by a new LoRA: what it is least sure of is best judged next."""
    if dataset := dataset_named(run.config().data.pairs):
        with suppress(UserError):  # the dataset may be gone; the training is no worse for it
            start(run.workspace, RATE.name, {"run": run.name, "dataset": dataset})


def _learning_curve(context: JobContext) -> str:
    message = learning_curve.run(context, report_at_end)
    write_report(Run.open(context.workspace, context.settings["run"]))
    return message


CURVE = JobKind("curve", learning_curve.check, _learning_curve)

KINDS = {kind.name: kind for kind in (GENERATE, COMPARE, SWEEP, RATE, CURVE, TARGETS)}

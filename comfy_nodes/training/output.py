"""Output of the train node: chart, sample images and report of a finished run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from ...trainer.runs.run_folder import Run


@dataclass(frozen=True)
class TrainingOutput:
    """chart: agreement and loss. samples: base beside LoRA. report: sentences, one a line."""

    chart: Image.Image
    samples: Image.Image
    report: str


def training_output(run: Run, lora: Path) -> TrainingOutput:
    """Of a run that has finished; `lora` is the copy of its LoRA that ComfyUI lists."""
    from ...trainer.reports import chart_image, run_charts
    from ...trainer.reports.summary import damage, headline, how_it_ended, how_sure, summarize_run

    summary = summarize_run(run)
    warning = damage(summary)
    sentences = [
        f"{headline(summary)}.",
        *how_sure(summary),
        *([warning] if warning else []),
        how_it_ended(summary),
        *(f"Note: {note}." for note in summary.warnings),
        f"LoRA: {lora}",
        f"Report with all curves and samples: {run.report_file}",
    ]
    charts = [run_charts.agreement(summary), run_charts.loss(summary)]
    chart = chart_image.draw_image(charts, summary.steps)
    return TrainingOutput(chart, _samples(run), "\n".join(sentences))


def _samples(run: Run) -> Image.Image:
    """The last sheet of base and LoRA; where there is none, a small empty image."""
    sheets = sorted(run.samples_folder.glob("step-*.png")) if run.samples_folder.is_dir() else []
    return Image.open(sheets[-1]).convert("RGB") if sheets else Image.new("RGB", (64, 64))

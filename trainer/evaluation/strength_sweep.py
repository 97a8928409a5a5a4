"""Strength sweep: at which strength is a LoRA best? The same prompts and seeds at several strengths, on one sheet."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..atomic_files import atomic_write
from ..config.dataset_uri import whole_path
from ..errors import UserError
from ..jobs.job import Job
from ..jobs.kind import JobContext, JobKind
from ..sampling.task_settings import GenerateSettings, cleaned, lora_file

if TYPE_CHECKING:
    from PIL import Image


class SweepSettings(GenerateSettings):
    """At which strengths images are generated with which LoRA."""

    lora: str = Field(min_length=1)
    """A LoRA file."""
    prompts: tuple[str, ...] = Field(min_length=1, max_length=20)
    """A row of the sheet for each."""
    strengths: tuple[float, ...] = Field((0.0, 0.25, 0.5, 0.75, 1.0, 1.25), min_length=2, max_length=12)
    """A column for each: 0 is the base alone, 1 as trained."""


def sheet_of(job: Job) -> Path:
    """Where the sheet of a sweep is, once it is generated."""
    return job.folder / "sheet.png"


def check(workspace: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings whole, paths absolute. Raises UserError naming what is wrong or missing."""
    prompts = cleaned(settings.get("prompts") or ())
    if not prompts:
        raise UserError("give at least one prompt to paint")
    sweep = SweepSettings.given({**settings, "prompts": prompts})
    return sweep.model_copy(update={"base": whole_path(sweep.base), "lora": str(lora_file(sweep.lora))}).plain()


def run(context: JobContext) -> str:
    """Generate the sheet; it is written anew after every round, so that it can be watched as it fills."""
    from ..images.contact_sheet import grid
    from ..sampling.batch_sampler import BatchSampler, ImageRequest, LoraUse, open_for_sampling
    from ..sampling.image_metadata import seed_of

    sweep = SweepSettings.given(context.settings)
    base, sampling = open_for_sampling(sweep)
    lora = Path(sweep.lora)
    requests = [
        ImageRequest(prompt, seed_of(prompt, 0, sweep.first_seed), LoraUse(lora, strength) if strength else None)
        for prompt in sweep.prompts
        for strength in sweep.strengths
    ]
    rows: dict[str, list[Image.Image]] = defaultdict(list)
    done = 0
    context.report_progress(0, len(requests), "loading the base")
    for images in BatchSampler(base, sampling, [lora]).generate(requests, context.check):
        for request, image in images:
            rows[request.prompt].append(image)
        header = ["base" if not strength else f"{strength:g}" for strength in sweep.strengths]
        with atomic_write(sheet_of(context.job)) as part:
            grid(list(rows.values()), captions=list(rows), header=header, cell=384).save(part, "PNG")
        done += len(images)
        context.report_progress(done, len(requests), f"painting {lora.stem} at {len(header)} strengths")
    return f"{lora.stem} is painted at {len(header)} strengths"


SWEEP = JobKind("sweep", check, run)

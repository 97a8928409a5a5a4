"""At which strength is a LoRA best? The same prompts and seeds at several strengths, on one sheet."""

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
    """Which LoRA is painted at which strengths."""

    lora: str = Field(min_length=1)
    """A LoRA file."""
    prompts: tuple[str, ...] = Field(min_length=1, max_length=20)
    """A row of the sheet for each."""
    strengths: tuple[float, ...] = Field((0.0, 0.25, 0.5, 0.75, 1.0, 1.25), min_length=2, max_length=12)
    """A column for each: 0 is the base alone, 1 as trained."""


def sheet_of(job: Job) -> Path:
    """Where the sheet of a sweep is, once it is painted."""
    return job.folder / "sheet.png"


def check(workspace: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings whole, paths absolute. Raises UserError naming what is wrong or missing."""
    prompts = cleaned(settings.get("prompts") or ())
    if not prompts:
        raise UserError("give at least one prompt to paint")
    asked = SweepSettings.given({**settings, "prompts": prompts})
    return asked.model_copy(update={"base": whole_path(asked.base), "lora": str(lora_file(asked.lora))}).plain()


def run(context: JobContext) -> str:
    """Paint the sheet; it is written anew after every round, so that it can be watched as it fills."""
    from ..images.contact_sheet import grid
    from ..sampling.batch_sampler import BatchSampler, ImageRequest, LoraUse, open_for_sampling
    from ..sampling.image_metadata import seed_of

    asked = SweepSettings.given(context.settings)
    base, sampling = open_for_sampling(asked)
    lora = Path(asked.lora)
    requests = [
        ImageRequest(prompt, seed_of(prompt, 0, asked.first_seed), LoraUse(lora, strength) if strength else None)
        for prompt in asked.prompts
        for strength in asked.strengths
    ]
    painted: dict[str, list[Image.Image]] = defaultdict(list)
    done = 0
    context.report_progress(0, len(requests), "loading the base")
    for pictures in BatchSampler(base, sampling, [lora]).generate(requests, context.check):
        for request, picture in pictures:
            painted[request.prompt].append(picture)
        header = ["base" if not strength else f"{strength:g}" for strength in asked.strengths]
        with atomic_write(sheet_of(context.job)) as part:
            grid(list(painted.values()), captions=list(painted), header=header, cell=384).save(part, "PNG")
        done += len(pictures)
        context.report_progress(done, len(requests), f"painting {lora.stem} at {len(header)} strengths")
    return f"{lora.stem} is painted at {len(header)} strengths"


SWEEP = JobKind("sweep", check, run)

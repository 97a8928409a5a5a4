"""Score images: of a run, before and after, on prompts it was not trained on; or of a comparison. Kept as a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ...atomic_files import atomic_write, write_text
from ...errors import UserError
from ...intervals import wilson_interval
from ...preferences.datasets import find_dataset
from ...preferences.images import image_path
from ...runs.run_folder import Run
from ...text import format_interval
from ..comparison import comparison_pairs
from ..generate_comparison import held_out_prompts

if TYPE_CHECKING:
    from ...preferences.store import Store
    from ...runs.run_folder import Run


ReportProgress = Callable[[int, int, str], None]
ImagePairs = Sequence[tuple[str, Path, Path]]
"""(prompt, the image without the LoRA, the one with it)."""


def score_run(
    run: Run,
    scorers: Sequence[str],
    prompts: Sequence[str] = (),
    seeds: int = 2,
    report_progress: ReportProgress = lambda *_: None,
    check: Callable[[], None] = lambda: None,
) -> Scores:
    """Generate with base and LoRA on the same noise, score both, and keep the table with the run, for its report.

    scorers: see models.py. prompts: by default those that the run kept aside. What was generated before is kept in the
    run's folder and not generated again; nothing is, where no scorer's weights are there. report_progress: (done,
    total, what); check may raise to stop.

    Raises UserError where the run has no LoRA, or nobody named prompts that were not trained on.
    """
    if not run.lora_file.is_file():
        raise UserError(f"{run.name} has no LoRA yet: let it finish its training first")
    prompts = tuple(prompts) or held_out_prompts(run.workspace, [str(run.lora_file)])
    if not prompts:
        raise UserError(f"{run.name} kept no prompts aside: name some with --prompts that it was not trained on")
    from .models import why_absent

    there = any(why_absent(scorer) is None for scorer in scorers)
    image_pairs = _generate_pairs(run, prompts, seeds, report_progress, check) if there else []
    rows, absent = score_pairs(scorers, image_pairs, report_progress)
    scores = Scores(len(prompts), len(image_pairs), tuple(rows), tuple(absent))
    if rows or read_scores(run) is None:  # a mistyped path must not cost what was scored before
        keep_scores(run, scores)
    return scores


def score_comparison(
    store: Store, name: str, scorers: Sequence[str], report_progress: ReportProgress = lambda *_: None
) -> Scores:
    """Score the images of a comparison, its LoRA's against the other's. Raises UserError where there is none."""
    with store.reading() as session:
        pairs = comparison_pairs(session, find_dataset(session, name))
        image_pairs = [(pair.prompt, *(image_path(store, one) for one in (pair.other, pair.lora))) for pair in pairs]
    if not image_pairs:
        raise UserError(f"nothing of {name} is painted yet")
    rows, absent = score_pairs(scorers, image_pairs, report_progress)
    return Scores(len({prompt for prompt, *_ in image_pairs}), len(image_pairs), tuple(rows), tuple(absent))


def score_pairs(
    scorers: Sequence[str], image_pairs: ImagePairs, report_progress: ReportProgress = lambda *_: None
) -> tuple[list[ScorerResult], list[str]]:
    """A result of each scorer whose weights are there, and why not for each other one. One is in memory at a time."""
    from .models import open_scorer  # torch, which a report does without

    prompts = [prompt for prompt, *_ in image_pairs]
    rows, absent = [], []
    for number, name in enumerate(scorers):
        report_progress(number, len(scorers), f"scoring by {name.partition('=')[0]}")
        try:
            scorer = open_scorer(name)
        except UserError as error:
            absent.append(f"Not scored by {name.partition('=')[0]}: {error}")
            continue
        before, after = (
            scorer.score(prompts, [_open_image(one[side]) for one in image_pairs])  # type: ignore[arg-type]
            for side in (1, 2)
        )
        scorer.close()
        rows.append(scorer_result(scorer.name, prompts, before, after))
    return rows, absent


def _generate_pairs(
    run: Run, prompts: Sequence[str], seeds: int, report_progress: ReportProgress, check: Callable[[], None]
) -> list[tuple[str, Path, Path]]:
    from ...models.open import open_base
    from ...sampling.batch_sampler import BatchSampler, ImageRequest, LoraUse, SamplingSettings
    from ...sampling.defaults import steps_and_cfg
    from ...sampling.image_metadata import Provenance, seed_of

    config, lora = run.config(), LoraUse(run.lora_file)
    tokenizers = Path(config.tokenizers) if config.tokenizers else None
    base = open_base(config.base, tokenizers=tokenizers, prediction=config.prediction)
    side = config.data.resolution or base.resolution
    sampling = SamplingSettings((side, side), *steps_and_cfg(base, config.watch.sample_steps, config.watch.guidance))
    provenance = Provenance.of(base, config.base, sampling, [run.lora_file])

    def file(request: ImageRequest) -> Path:
        return run.folder / "scored" / f"{provenance.fingerprint(request).rpartition(':')[2]}.png"

    pairs = [
        (ImageRequest(prompt, seed), ImageRequest(prompt, seed, lora))
        for prompt in prompts
        for seed in (seed_of(prompt, number) for number in range(seeds))
    ]
    every = [request for pair in pairs for request in pair]
    left = [request for request in every if not file(request).is_file()]
    done = len(every) - len(left)
    report_progress(done, len(every), f"painting {run.name}")
    for images in BatchSampler(base, sampling, [run.lora_file]).generate(left, check):
        for request, image in images:
            with atomic_write(file(request)) as part:
                image.save(part, "PNG")
        done += len(images)
        report_progress(done, len(every), f"painting {run.name}")
    return [(before.prompt, file(before), file(after)) for before, after in pairs]


def _open_image(file: Path) -> Image.Image:
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except OSError as error:
        raise UserError(f"{file} cannot be read as a picture: paint it again") from error


_DRAWS = 4000


@dataclass(frozen=True)
class ScorerResult:
    """One scorer. before, after: mean scores without and with the LoRA; change: their mean difference, with its 95 %
    interval low to high; higher: how many of `pairs` images scored higher with the LoRA."""

    scorer: str
    before: float
    after: float
    change: float
    low: float
    high: float
    higher: int
    pairs: int

    @staticmethod
    def shown(value: float) -> str:
        return f"{value:.2f}"

    @property
    def difference(self) -> str:
        sure = "" if self.low > 0 or self.high < 0 else ": may be chance"
        return f"{self.change:+.2f} ({self.low:+.2f} to {self.high:+.2f}){sure}"

    @property
    def share(self) -> str:
        return format_interval(self.higher / self.pairs, *wilson_interval(self.higher, self.pairs))


@dataclass(frozen=True)
class Scores:
    """prompts, pairs: how many images were generated with each; rows: of the scorers that were there; absent: sentences
    without a full stop, why another one was not."""

    prompts: int
    pairs: int
    rows: tuple[ScorerResult, ...]
    absent: tuple[str, ...] = ()

    def sentence(self) -> str:
        """What was scored, and what that is worth."""
        return (
            f"Pictures for {self.prompts} prompts that were not trained on, {self.pairs} each of the base and of the "
            "LoRA, with the same noise. A scorer knows what many people like on average, not what you like: where it "
            "differs from your own blind judgements, trust those."
        )

    def text(self) -> str:
        """The table for a terminal."""
        wide = max((len(row.scorer) for row in self.rows), default=0)
        lines = [
            f"{row.scorer:{wide}}  {row.shown(row.before)} -> {row.shown(row.after)}   {row.difference}   "
            f"higher on {row.share} of {row.pairs}"
            for row in self.rows
        ]
        return "\n".join([*lines, *(f"{one}." for one in self.absent)])


def scorer_result(scorer: str, prompts: Sequence[str], before: Sequence[float], after: Sequence[float]) -> ScorerResult:
    """Add up the scores of pairs of images. The interval is drawn by prompt: images of one prompt are alike."""
    change = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    names = sorted(set(prompts))
    sums = np.array([sum(one for one, of in zip(change, prompts, strict=True) if of == name) for name in names])
    counts = np.array([list(prompts).count(name) for name in names])
    rows = np.random.default_rng(0).integers(0, len(names), (_DRAWS, len(names)))
    low, high = np.percentile(sums[rows].sum(axis=1) / counts[rows].sum(axis=1), (2.5, 97.5))
    higher = int((change > 0).sum())
    means = (float(np.mean(before)), float(np.mean(after)), float(change.mean()))
    return ScorerResult(scorer, *means, float(low), float(high), higher, len(change))


def read_scores(run: Run) -> Scores | None:
    """What was kept for a run; None where nothing was, or its file is damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        values = json.loads(scores_file(run).read_text(encoding="utf-8"))
        rows = tuple(ScorerResult(**row) for row in values["rows"])
        return Scores(int(values["prompts"]), int(values["pairs"]), rows, tuple(map(str, values["absent"])))
    return None


def keep_scores(run: Run, scores: Scores) -> None:
    write_text(scores_file(run), json.dumps(asdict(scores), indent=1))


def scores_file(run: Run) -> Path:
    return run.folder / "scores.json"

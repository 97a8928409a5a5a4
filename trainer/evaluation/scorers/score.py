"""How are pictures scored: a run's, before and after, on prompts it was not trained on; those of a comparison?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ...atomic_files import atomic_write
from ...errors import UserError
from ...preferences.datasets import find_dataset
from ...preferences.images import image_path
from ..comparison import comparison_pairs
from ..generate_comparison import held_out_prompts
from .models import open_scorer, why_absent
from .report_scores import Row, Scores, keep_scores, read_scores, row_of

if TYPE_CHECKING:
    from ...preferences.store import Store
    from ...runs.run_folder import Run

Tell = Callable[[int, int, str], None]
Painted = Sequence[tuple[str, Path, Path]]
"""(prompt, the picture without the LoRA, the one with it)."""


def score_run(
    run: Run,
    scorers: Sequence[str],
    prompts: Sequence[str] = (),
    seeds: int = 2,
    tell: Tell = lambda *_: None,
    check: Callable[[], None] = lambda: None,
) -> Scores:
    """Paint base and LoRA on the same noise, score both, keep the table with the run and write it into its report.

    scorers: see scorers.py. prompts: by default those that the run kept aside. What was painted before is kept in the
    run's folder and not painted again; nothing is, where no scorer's weights are there. tell: (done, total, what);
    check may raise to stop.

    Raises UserError where the run has no LoRA, or nobody named prompts that were not trained on.
    """
    from ...reports.report import write_report

    if not run.lora_file.is_file():
        raise UserError(f"{run.name} has no LoRA yet: let it finish its training first")
    wanted = tuple(prompts) or held_out_prompts(run.workspace, [str(run.lora_file)])
    if not wanted:
        raise UserError(f"{run.name} kept no prompts aside: name some with --prompts that it was not trained on")
    there = any(why_absent(asked) is None for asked in scorers)
    painted = _painted(run, wanted, seeds, tell, check) if there else []
    rows, absent = score_pairs(scorers, painted, tell)
    scores = Scores(len(wanted), len(painted), tuple(rows), tuple(absent))
    if rows or read_scores(run) is None:  # a mistyped path must not cost what was scored before
        keep_scores(run, scores)
        write_report(run)
    return scores


def score_comparison(store: Store, name: str, scorers: Sequence[str], tell: Tell = lambda *_: None) -> Scores:
    """Score the pictures of a comparison, its LoRA's against the other's. Raises UserError where there is none."""
    with store.reading() as session:
        found = comparison_pairs(session, find_dataset(session, name))
        painted = [(duel.prompt, *(image_path(store, one) for one in (duel.other, duel.lora))) for duel in found]
    if not painted:
        raise UserError(f"nothing of {name} is painted yet")
    rows, absent = score_pairs(scorers, painted, tell)
    return Scores(len({prompt for prompt, *_ in painted}), len(painted), tuple(rows), tuple(absent))


def score_pairs(scorers: Sequence[str], painted: Painted, tell: Tell = lambda *_: None) -> tuple[list[Row], list[str]]:
    """A row for each scorer whose weights are there, and why not for each other one. One is in memory at a time."""
    prompts = [prompt for prompt, *_ in painted]
    rows, absent = [], []
    for number, asked in enumerate(scorers):
        tell(number, len(scorers), f"scoring by {asked.partition('=')[0]}")
        try:
            scorer = open_scorer(asked)
        except UserError as error:
            absent.append(f"Not scored by {asked.partition('=')[0]}: {error}")
            continue
        before, after = (
            scorer.score(prompts, [_opened(one[side]) for one in painted])  # type: ignore[arg-type]
            for side in (1, 2)
        )
        scorer.close()
        rows.append(row_of(scorer.name, prompts, before, after))
    return rows, absent


def _painted(
    run: Run, prompts: Sequence[str], seeds: int, tell: Tell, check: Callable[[], None]
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

    duels = [
        (ImageRequest(prompt, seed), ImageRequest(prompt, seed, lora))
        for prompt in prompts
        for seed in (seed_of(prompt, number) for number in range(seeds))
    ]
    every = [request for duel in duels for request in duel]
    left = [request for request in every if not file(request).is_file()]
    done = len(every) - len(left)
    tell(done, len(every), f"painting {run.name}")
    for pictures in BatchSampler(base, sampling, [run.lora_file]).generate(left, check):
        for request, picture in pictures:
            with atomic_write(file(request)) as part:
                picture.save(part, "PNG")
        done += len(pictures)
        tell(done, len(every), f"painting {run.name}")
    return [(before.prompt, file(before), file(after)) for before, after in duels]


def _opened(file: Path) -> Image.Image:
    try:
        with Image.open(file) as picture:
            return picture.convert("RGB")
    except OSError as error:
        raise UserError(f"{file} cannot be read as a picture: paint it again") from error

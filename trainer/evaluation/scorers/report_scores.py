"""What do scorers say of what a LoRA changed? Base and LoRA on the same prompts and noise, scored, side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ...atomic_files import write_text
from ...intervals import format_interval, wilson_interval
from ...runs.run_folder import Run

_DRAWS = 4000


@dataclass(frozen=True)
class Row:
    """One scorer. before, after: mean scores without and with the LoRA; change: their mean difference, with its 95 %
    interval low to high; higher: how many of `pairs` pictures scored higher with the LoRA."""

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
    """prompts, pairs: on how many pictures were painted; rows: of the scorers that were there; absent: sentences
    without a full stop, why another one was not."""

    prompts: int
    pairs: int
    rows: tuple[Row, ...]
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


def row_of(scorer: str, prompts: Sequence[str], before: Sequence[float], after: Sequence[float]) -> Row:
    """Add up the scores of pairs of pictures. The interval is drawn by prompt: pictures of one prompt are alike."""
    change = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    names = sorted(set(prompts))
    sums = np.array([sum(one for one, of in zip(change, prompts, strict=True) if of == name) for name in names])
    counts = np.array([list(prompts).count(name) for name in names])
    rows = np.random.default_rng(0).integers(0, len(names), (_DRAWS, len(names)))
    low, high = np.percentile(sums[rows].sum(axis=1) / counts[rows].sum(axis=1), (2.5, 97.5))
    higher = int((change > 0).sum())
    means = (float(np.mean(before)), float(np.mean(after)), float(change.mean()))
    return Row(scorer, *means, float(low), float(high), higher, len(change))


def read_scores(run: Run) -> Scores | None:
    """What was kept for a run; None where nothing was, or its file is damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads(scores_file(run).read_text(encoding="utf-8"))
        rows = tuple(Row(**row) for row in told["rows"])
        return Scores(int(told["prompts"]), int(told["pairs"]), rows, tuple(map(str, told["absent"])))
    return None


def keep_scores(run: Run, scores: Scores) -> None:
    write_text(scores_file(run), json.dumps(asdict(scores), indent=1))


def scores_file(run: Run) -> Path:
    return run.folder / "scores.json"

"""Demo: a small model generates images, learns a taste from judged pairs, and generates the same prompts again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from PIL import Image

from ..atomic_files import atomic_write
from ..cancellation import Cancelled, StopRequest
from ..config.presets import tiny_settings
from ..config.run_config import RunConfig, parse_config
from ..images.contact_sheet import grid
from ..models.open import TINY, open_base
from ..reports.report import add_sections, report_at_end, write_report
from ..runs.event_log import Listener
from ..runs.run_folder import Run, all_runs
from ..sampling.sampler import generate
from ..text import format_duration, format_interval
from ..training.loop import train
from .judge import Measurement, measure, test_captions, write_pairs

PAIRS = 200
PICTURES = 80
"""Painted before and again after, on captions that no pair has: two of each."""
_SHOWN = 8


@dataclass(frozen=True)
class DemoResult:
    """Shares are in [0, 1] and measured on captions that no judged pair has; train_seconds is the training alone."""

    preferred_before: float
    preferred_after: float
    caption_before: float
    caption_after: float
    agreement: float
    agreement_low: float
    agreement_high: float
    train_seconds: float
    lora: Path
    report: Path
    grid: Path

    def as_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}

    def summary(self) -> str:
        """For a person, a few lines."""
        sure = format_interval(self.agreement, self.agreement_low, self.agreement_high)
        return (
            f"\nIn {format_duration(self.train_seconds)} the model learned to prefer outlined shapes, on captions it "
            "was not taught on:\n"
            f"  painted as preferred      {self.preferred_before:4.0%}  ->  {self.preferred_after:4.0%}\n"
            f"  caption followed          {self.caption_before:4.0%}  ->  {self.caption_after:4.0%}\n"
            f"  agrees with the judge on  {sure} of the pairs kept aside\n\n"
            f"before and after:  {self.grid}\n"
            f"report:            {self.report}\n"
            f"LoRA:              {self.lora}"
        )


def show(workspace: Path, seed: int, watching: Callable[[], AbstractContextManager[Listener]]) -> DemoResult:
    """Draw pairs, paint, train, paint again, and measure; everything lands in a new run folder of `workspace`.

    watching: opens the listener for progress events. Raises UserError as `train` does, Cancelled where it was stopped.
    """
    workspace = workspace.resolve()
    pairs = workspace / f"demo-pairs-{seed}"
    write_pairs(pairs, PAIRS, seed)
    run = Run.create(workspace, _config(_free_name(workspace), pairs, seed))
    captions = (test_captions(seed) * 2)[:PICTURES]

    with watching() as listen:
        run.listeners.extend([listen, report_at_end(run)])
        before = _paint(captions, None, listen)
        began = time.perf_counter()
        outcome = train(run, StopRequest(run.stop_file))
        seconds = time.perf_counter() - began
        if not outcome.finished or outcome.agreement is None:
            raise Cancelled(f"stopped after step {outcome.step}; `mapo resume {run.name}` trains on, without the demo")
        after = _paint(captions, outcome.lora, listen)

    was, now = measure(before, captions), measure(after, captions)
    sheet = _write_sheet(run, captions, before, after)
    add_sections(run, outcome.step, [("What changed", _table(was, now)), ("Before and after", sheet)])
    write_report(run)
    return DemoResult(
        preferred_before=was.outlined,
        preferred_after=now.outlined,
        caption_before=was.right,
        caption_after=now.right,
        agreement=outcome.agreement.agreement,
        agreement_low=outcome.agreement.low,
        agreement_high=outcome.agreement.high,
        train_seconds=round(seconds, 1),
        lora=outcome.lora,
        report=run.report_file,
        grid=sheet,
    )


def _config(name: str, pairs: Path, seed: int) -> RunConfig:
    values = tiny_settings()
    values["training"]["seed"] = seed
    return parse_config({**values, "name": name, "base": TINY, "data": {"pairs": str(pairs), "held_out": 0.2}}, "demo")


def _free_name(workspace: Path) -> str:
    taken = {run.name for run in all_runs(workspace)}
    return next(name for i in count(1) if (name := "demo" if i == 1 else f"demo-{i}") not in taken)


def _paint(captions: Sequence[str], lora: Path | None, listen: Listener) -> list[Image.Image]:
    """The same noise for the same caption each time, so that what differs is what was learned."""

    def tell(done: int, total: int) -> None:
        what = "painting after" if lora else "painting before"
        listen({"event": "progress", "what": what, "done": done, "total": total})

    watch = tiny_settings()["watch"]
    base = open_base(TINY)
    return generate(base, captions, lora, steps=watch["sample_steps"], guidance=watch["guidance"], progress=tell)


def _table(was: Measurement, now: Measurement) -> list[tuple[str, str, str]]:
    return [
        ("", "before", "after"),
        (f"painted as preferred, of {now.count} pictures", f"{was.outlined:.0%}", f"{now.outlined:.0%}"),
        ("caption followed (colour, shape and place)", f"{was.right:.0%}", f"{now.right:.0%}"),
    ]


def _write_sheet(run: Run, captions: Sequence[str], before: list[Image.Image], after: list[Image.Image]) -> Path:
    """Before and after side by side, two captions a row."""
    file = run.folder / "before-after.png"
    rows = [(before[i], after[i], before[i + 1], after[i + 1]) for i in range(0, _SHOWN, 2)]
    names = [f"{captions[i]}; {captions[i + 1]}" for i in range(0, _SHOWN, 2)]
    with atomic_write(file) as part:
        grid(rows, names, ("before", "after") * 2, cell=192).save(part, "PNG")
    return file

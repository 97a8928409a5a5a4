"""Run summary: what did a run come to? Its events added up, and the sentences that a person wants to read of them."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..config.run_config import RunConfig
from ..runs.run_folder import Event, Run
from ..text import finite_number, format_count, format_interval, format_percent
from ..training.early_stopping import chosen_error_warning, history_of, point_of

Ending = Literal["finished", "stopped", "failed", "open"]


@dataclass(frozen=True)
class Summary:
    """A run as its events tell it. Any of them may be missing, and any number in them may be null.

    step: the last one done, of `steps`. ending: "open" where the run goes on still or was killed. error: of a failed
    run. started: the newest "started" event, {} where the run never came that far. warnings: each text once.
    """

    name: str
    workspace: Path
    config: RunConfig
    step: int
    ending: Ending
    error: str
    started: Event
    step_events: tuple[Event, ...]
    evaluations: tuple[Event, ...]
    warnings: tuple[str, ...]
    calibrated: Event
    """What the knobs that are auto came to, {} where none are."""
    kept: int | None
    """The step whose weights are the LoRA, of a run that has ended."""
    early: bool
    """Whether it was complete before its last step."""
    reason: str
    """Why it ended early, and why an earlier step was kept; "" where neither is so."""

    @property
    def steps(self) -> int:
        return self.config.training.steps

    @property
    def seconds_a_step(self) -> float | None:
        """Median, so that a slow first step says nothing."""
        seconds = [value for _, value in course(self.step_events, "seconds")]
        return statistics.median(seconds) if seconds else None

    @property
    def seconds(self) -> float:
        """All steps together, without what lay between them."""
        return sum(value for _, value in course(self.step_events, "seconds"))


def summarize_run(run: Run) -> Summary:
    """Read a run's folder. Raises UserError where its run.toml cannot be read."""
    events = list(run.events())
    ending: Ending = "open"
    error = ""
    result: Event = {}
    for event in events:
        if event.get("event") in ("finished", "stopped", "failed"):
            ending, error, result = event["event"], str(event.get("error") or ""), event
        elif event.get("event") in ("started", "resumed", "step", "encoding"):
            ending, result = "open", {}
    of_kind = {kind: tuple(one for one in events if one.get("event") == kind) for kind in _KINDS}
    done = [finite_number(event, "step") or 0 for kind in ("step", "checkpoint") for event in of_kind[kind]]
    return Summary(
        name=run.name,
        workspace=run.workspace,
        config=run.config(),
        step=int(max(done, default=0)),
        ending=ending,
        error=error,
        started=of_kind["started"][-1] if of_kind["started"] else {},
        calibrated=of_kind["calibrated"][-1] if of_kind["calibrated"] else {},
        step_events=of_kind["step"],
        evaluations=of_kind["evaluation"],
        # `damage` tells that of harm as the end has it.
        warnings=tuple(
            dict.fromkeys(
                str(one["text"]) for one in of_kind["warning"] if one.get("text") and one.get("kind") != "harm"
            )
        ),
        kept=None if (kept := finite_number(result, "kept")) is None else int(kept),
        early=result.get("early") is True,
        reason=str(result.get("said") or ""),
    )


_KINDS = ("started", "calibrated", "step", "evaluation", "checkpoint", "warning")


def course(events: tuple[Event, ...], *names: str) -> list[tuple[float, ...]]:
    """(step, value, ...) of every event in which all of them are there."""
    rows = [[finite_number(event, name) for name in ("step", *names)] for event in events]
    return [tuple(row) for row in rows if None not in row]  # type: ignore[arg-type]


def headline(summary: Summary) -> str:
    """What was learned, as one sentence without its full stop."""
    evaluation = measured(summary)
    if evaluation is None:
        return f"How well {summary.name} agrees with you was not measured"
    pairs = int(finite_number(evaluation, "pairs") or 0)
    among = format_count(pairs, "pair") if pairs else "pairs"
    share = format_interval(
        evaluation["agreement"], finite_number(evaluation, "low"), finite_number(evaluation, "high")
    )
    return f"{summary.name} agrees with you on {share} of {among} it has not trained on"


def how_sure(summary: Summary) -> list[str]:
    """What the headline rests on: its interval, where it began, and why there is none if there is none."""
    last = measured(summary)
    if last is None:
        return [_why_unmeasured(summary)]
    sentences = []
    low, high, step = finite_number(last, "low"), finite_number(last, "high"), int(finite_number(last, "step") or 0)
    if low is not None and high is not None:
        sentences.append(
            "In brackets is where it lies with 95 % certainty: the fewer pairs are held out, the less exactly it is "
            "known."
        )
    first = summary.evaluations[0]
    before = finite_number(first, "agreement")
    if before is not None and finite_number(first, "step") == 0 and step > 0:
        sentence = f"Before training it was {format_percent(before)}."
        if low is not None and high is not None and low <= before <= high:
            sentence += " The two are too close for so few pairs: the difference may be chance."
        sentences.append(sentence)
    if step < summary.step and step != summary.kept:
        sentences.append(f"Measured at step {step}; the training went on to step {summary.step}.")
    return sentences


def how_it_ended(summary: Summary) -> str:
    """One or two sentences, with what to do next."""
    done = f"step {summary.step} of {summary.steps}"
    again = f"Go on with it by `{resume_command(summary)}`."
    if summary.ending == "finished":
        complete = f"The training is complete: {format_count(summary.steps, 'step')}."
        return " ".join(filter(None, ["" if summary.early else complete, summary.reason]))
    if summary.ending == "stopped":
        where = f"Stopped at {done}, saved." if summary.step else "Stopped before the first step."
        return " ".join(filter(None, [where, summary.reason, again]))
    if summary.ending == "failed":
        error = summary.error.rstrip(". ") or "it left no message"
        return f"Failed at {done}: {error}. When that is mended: `{resume_command(summary)}`."
    return f"Not finished: it was at {done} when this was written. If it does not run any more: {_lower(again)}"


def damage(summary: Summary) -> str | None:
    """A warning where the agreement was bought with image quality, which agreement alone does not show."""
    evaluation = measured(summary)
    if evaluation is None or (point := point_of(evaluation)) is None:
        return None
    earlier = (one for one in summary.evaluations if (finite_number(one, "step") or 0) < point.step)
    rise = history_of(earlier).chosen_error_rise(point)
    return chosen_error_warning(summary.config.objective, *rise, point.agreement) if rise else None


def resume_command(summary: Summary) -> str:
    """What to type where this process was started."""
    command = f"mapo resume {_quoted(summary.name)}"
    if summary.workspace.resolve() != Path("workspace").resolve():
        command += f" --workspace {_quoted(str(summary.workspace.resolve()))}"
    return command


def measured(summary: Summary) -> Event | None:
    """The newest evaluation that came to a number, of those up to the step whose weights are the LoRA."""
    until = math.inf if summary.kept is None else summary.kept
    numbers = (one for one in reversed(summary.evaluations) if finite_number(one, "agreement") is not None)
    return next((one for one in numbers if (finite_number(one, "step") or 0) <= until), None)


def _why_unmeasured(summary: Summary) -> str:
    if finite_number(summary.started, "held_out") == 0:
        return "No pair was held out: collect pairs of more prompts, or raise `--held-out`."
    if summary.evaluations:
        return "The measurements came to no number."
    return "The run did not come as far as its first measurement."


def _quoted(word: str) -> str:
    return f'"{word}"' if " " in word else word


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]

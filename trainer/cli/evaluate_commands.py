"""Evaluation commands: the verbs `learning-curve`, `compare` and `score`, thin as those of main.py."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import tyro

from ..errors import UserError
from .arguments import Guidance, Json, Steps, Workspace, default_workspace, parse

if TYPE_CHECKING:
    from ..cancellation import StopRequest
    from ..evaluation.scorers.score import Scores
    from ..jobs.job import Job, Status
    from ..runs.event_log import Listener
    from ..runs.run_folder import Run

T = TypeVar("T")


def learning_curve(words: list[str]) -> int:
    @dataclass
    class LearningCurve:
        """Train like a finished run on a quarter and on half of its pairs, and say what twice as many would bring."""

        run: tyro.conf.Positional[str]
        workspace: Workspace
        steps: Annotated[
            int | None, tyro.conf.arg(help="Of each training; by default as many as the run's, which is then reused.")
        ] = None
        json: Json = False

    if "--quick" in words:
        raise UserError(
            "--quick is removed: pairs that a LoRA was trained on say too little about what more pairs would bring. "
            "Leave it out; a small --steps makes the measurement shorter"
        )
    options = parse(LearningCurve, words, "learning-curve", LearningCurve(tyro.MISSING, default_workspace()))
    from ..evaluation.learning_curve import measure_curve
    from ..reports.report import report_at_end, write_report
    from ..runs.run_folder import Run

    run = Run.open(options.workspace.resolve(), options.run)
    curve = _in_turn(
        run, lambda stop, listen: measure_curve(run, stop, options.steps, listen, listener_of=report_at_end)
    )
    write_report(run)
    _say(*curve.sentences())
    if options.json:
        _say(json.dumps(asdict(curve) | {"forecast": asdict(curve.forecast())}))
    return 0


def compare(words: list[str]) -> int:
    @dataclass
    class Compare:
        """Paint a base and LoRAs on the same prompts and noise, for judging blind; or say how the judging stands."""

        base: tyro.conf.Positional[str] = ""
        workspace: Workspace = Path("workspace")
        lora: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(help="A LoRA file; repeat it.")] = ()
        prompts: Annotated[
            tuple[str, ...], tyro.conf.arg(help="Texts, or files with one a line; by default what a run held out.")
        ] = ()
        with_base: Annotated[bool, tyro.conf.arg(help="Compare each LoRA with the base alone, too.")] = True
        name: Annotated[str, tyro.conf.arg(help="Of a comparison of one LoRA; made from the LoRAs' otherwise.")] = ""
        seeds: Annotated[int, tyro.conf.arg(help="Pairs for each prompt.")] = 1
        first_seed: Annotated[int, tyro.conf.arg(help="Another one paints other pictures.")] = 0
        strength: Annotated[float, tyro.conf.arg(help="Of the LoRAs; 1 is as trained.")] = 1.0
        steps: Steps = None
        guidance: Guidance = None
        width: Annotated[int | None, tyro.conf.arg(help="In pixels; by default the base's square.")] = None
        height: Annotated[int | None, tyro.conf.arg(help="In pixels; by default the base's square.")] = None
        negative: Annotated[str, tyro.conf.arg(help="What to keep away from.")] = ""
        scorer: Annotated[
            tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(help="As pickscore=PATH, see docs/compare.md.")
        ] = ()
        standing: Annotated[bool, tyro.conf.arg(help="Only say how the comparisons stand: all, or --name.")] = False
        json: Json = False

    options = parse(Compare, words, "compare", Compare(workspace=default_workspace()))
    workspace = options.workspace.resolve()
    if options.standing:
        return _standing(workspace, options.name, options.json)
    if not options.base:
        raise UserError("say which base is painted with: `mapo compare BASE --lora FILE`")
    from ..evaluation.generate_comparison import held_out_prompts, pairings, start_comparison
    from ..sampling.task_settings import lora_file, prompts_in

    loras = tuple(str(lora_file(name)) for name in dict.fromkeys(options.lora))
    matches = pairings(loras, options.with_base)
    if options.name and len(matches) > 1:
        raise UserError("--name is for one comparison, and this makes several: leave it out")
    prompts = prompts_in(options.prompts) or held_out_prompts(workspace, loras)
    if not prompts:
        raise UserError("no prompts: give --prompts with texts or a file, since no run here held any out for this LoRA")
    shared = ("base", "seeds", "first_seed", "strength", "steps", "guidance", "width", "height", "negative")
    settings = {name: getattr(options, name) for name in shared} | {"prompts": prompts}
    names = []
    for lora, against in matches:
        started = start_comparison(workspace, {**settings, "lora": lora, "against": against, "name": options.name})
        if started.trained_on:
            _say(f"{started.trained_on} of {len(prompts)} prompts were trained on: there it shows what it remembers")
        if not _wait(started.job):
            return 130
        names.append(started.name)
    return _print_comparisons(workspace, names, scorers=options.scorer, as_json=options.json)


def score(words: list[str]) -> int:
    @dataclass
    class Score:
        """Paint before and after on held-out prompts, let scorers rate both, and write the table into the report."""

        run: tyro.conf.Positional[str]
        workspace: Workspace
        scorer: Annotated[
            tyro.conf.UseAppendAction[tuple[str, ...]],
            tyro.conf.arg(help="As pickscore=PATH, see docs/compare.md; repeat it."),
        ] = ()
        prompts: Annotated[
            tuple[str, ...], tyro.conf.arg(help="Texts, or files with one a line; by default what the run held out.")
        ] = ()
        seeds: Annotated[int, tyro.conf.arg(help="Pictures of each side for each prompt.")] = 2
        json: Json = False

    options = parse(Score, words, "score", Score(tyro.MISSING, default_workspace()))
    if not options.scorer:
        raise UserError("name at least one --scorer, such as pickscore=PATH: none comes with the program")
    from ..reports.report import write_report
    from ..runs.run_folder import Run
    from ..sampling.task_settings import prompts_in

    run = Run.open(options.workspace.resolve(), options.run)
    prompts = prompts_in(options.prompts)

    def rate(stop: StopRequest, listen: Listener) -> Scores:
        from ..evaluation.scorers.score import score_run

        return score_run(run, options.scorer, prompts, options.seeds, partial(_tell, listen), stop.check)

    scores = _in_turn(run, rate)
    write_report(run)
    _say(scores.text(), *([f"written into {run.report_file}"] if scores.rows else []))
    if options.json:
        _say(json.dumps(asdict(scores)))
    return 0 if scores.rows else 2


def _in_turn(run: Run, work: Callable[[StopRequest, Listener], T]) -> T:
    """Wait for the device, show the progress of `work` and return its result. Exits the program where it is stopped."""
    from ..cancellation import Cancelled, StopRequest
    from ..jobs.gpu_queue import acquire_gpu
    from .progress_bar import watching

    stop = StopRequest(run.workspace / "stop")
    with ExitStack() as held:
        held.enter_context(stop.listening())
        listen = held.enter_context(watching())
        try:
            held.enter_context(acquire_gpu(run.workspace, run.folder, partial(_tell_waiting, listen), stop.check))
            return work(stop, listen)
        except Cancelled:
            _say("stopped; the same command goes on from here")
            raise SystemExit(stop.exit_code) from None


def _tell(listen: Listener, done: int, total: int, what: str) -> None:
    listen({"event": "progress", "what": what, "done": done, "total": total})


def _wait(job: Job) -> bool:
    """Show a job until it ends; whether it came to its end. Ctrl-C stops it, keeping what is painted."""
    from ..jobs.job import wait
    from .progress_bar import watching

    with watching() as listen:

        def show(status: Status) -> None:
            if status.waiting_for:
                _tell_waiting(listen, status.waiting_for)
            elif status.total:
                _tell(listen, status.done, status.total, status.message)

        try:
            status = wait(job, show)
        except KeyboardInterrupt:
            job.stop()
            status = wait(job, show)
    if status.phase == "failed":
        raise UserError(status.message)
    if status.phase != "finished":
        _say("stopped; what is painted is kept, and the same command with the same --name goes on from here")
    return status.phase == "finished"


def _print_comparisons(workspace: Path, names: Sequence[str], scorers: Sequence[str], as_json: bool) -> int:
    """Print where the pictures are, how to judge them, and what scorers say of them."""
    from ..atomic_files import atomic_write
    from ..evaluation.comparison_sheet import grid_of
    from ..preferences.store import open_store

    store = open_store(workspace)
    sheet = workspace / "comparisons" / f"{names[0]}.png"
    with store.reading() as session:
        picture = grid_of(session, store, names)
    with atomic_write(sheet) as part:
        picture.save(part, "PNG")
    result: dict[str, object] = {"comparisons": list(names), "sheet": str(sheet)}
    if scorers:
        from ..evaluation.scorers.score import score_comparison

        result["scores"] = {}
        for name in names:
            scores = score_comparison(store, name, scorers)
            result["scores"][name] = asdict(scores)  # type: ignore[index]
            _say(f"{name}:", scores.text())
    listed = ", ".join(f"“{name}”" for name in names)
    _say(
        f"judge blind: `mapo studio`, tab Compare, choose {listed}",
        "how it stands: `mapo compare --standing`",
        f"all pictures beside each other, unblinded (judge first): {sheet}",
    )
    if as_json:
        _say(json.dumps(result))
    return 0


def _standing(workspace: Path, name: str, as_json: bool) -> int:
    from ..evaluation.comparison import comparison_info, comparison_result
    from ..preferences.datasets import find_dataset, list_datasets
    from ..preferences.store import open_store

    rows = []
    with open_store(workspace).reading() as session:
        comparisons = [find_dataset(session, name)] if name else list_datasets(session, "comparison")
        for comparison in comparisons:
            info, now = comparison_info(comparison), comparison_result(session, comparison)
            rows.append({"name": comparison.name, "lora": info.lora, "against": info.other, **asdict(now)})
            judged = f"{now.judged} of {now.pairs} pairs judged"
            _say(f"{comparison.name}: {judged}; {info.lora}: {now.rate.sentence(info.other)}")
    if not rows:
        _say("there is no comparison yet: `mapo compare BASE --lora FILE` makes one")
    if as_json:
        _say(json.dumps(rows))
    return 0


def _say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def _tell_waiting(listen: Listener, waiting_for: str) -> None:
    listen({"event": "waiting", "waiting_for": waiting_for})

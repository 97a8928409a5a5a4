"""Command line: the verbs of `mapo`, each thin. What a verb does is in the module it calls."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import tyro

from ..errors import UserError
from ..models.fast_start import load_model_libraries
from .arguments import (
    Guidance,
    Json,
    Steps,
    Workspace,
    default_workspace,
    parse,
    parse_arguments,
    preset_here,
    settings_of,
)

if TYPE_CHECKING:
    from ..distributed import World
    from ..runs.run_folder import Run


class Verb(NamedTuple):
    run: Callable[[list[str]], int]
    summary: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code: 0, 2 for what the person can mend, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        _say(_help())
        return 0
    try:
        if words[0] == "task":  # no verb for people: a face starts it, see jobs/worker.py
            return _task(words[1:])
        if words[0] not in VERBS:
            raise UserError(f"there is no command {words[0]!r}: use {', '.join(VERBS)}")
        return VERBS[words[0]].run(words[1:])
    except UserError as error:
        _say(f"mapo {words[0]}: {error}", to=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _demo(words: list[str]) -> int:
    @dataclass
    class Demo:
        """Watch a small model learn a taste from judged pairs, on any computer, in a few minutes."""

        workspace: Workspace
        seed: Annotated[int, tyro.conf.arg(help="Another seed draws other pairs and trains another LoRA.")] = 0
        json: Json = False

    options = parse(Demo, words, "demo", Demo(default_workspace()))
    load_model_libraries()
    from ..cancellation import Cancelled
    from ..demo.show import show
    from .progress_bar import watching

    try:
        result = show(options.workspace, options.seed, watching)
    except Cancelled as stopped:
        _say(str(stopped) or "stopped")
        return 130
    _say(result.summary())
    if options.json:
        _say(json.dumps(result.as_dict()))
    return 0


def _train(words: list[str]) -> int:
    arguments = parse_arguments(words, "train", "Train a LoRA from judged pairs.")
    from ..distributed import init_distributed
    from ..runs.run_folder import Run

    workspace = arguments.flags.workspace.resolve()
    with init_distributed() as world:
        preset = preset_here(arguments)
        config = arguments.resolve(preset)
        if preset and world.is_main:
            _say(f"settings for {preset.title}")
        run = Run.create(workspace, config) if world.is_main else None
        world.any(False)  # now it is there for all
        run = run or Run.open(workspace, config.name)
        try:
            return _train_run(run, arguments.flags.json, world)
        except UserError:
            if world.is_main and not run.has_begun():  # so that the same command works once the mistake is mended
                shutil.rmtree(run.folder, ignore_errors=True)
            raise


def _resume(words: list[str]) -> int:
    @dataclass
    class Resume:
        """Go on with a run that was stopped or killed."""

        name: tyro.conf.Positional[str]
        workspace: Workspace
        json: Json = False

    options = parse(Resume, words, "resume", Resume(tyro.MISSING, default_workspace()))
    from ..distributed import init_distributed
    from ..runs.run_folder import Run

    with init_distributed() as world:
        return _train_run(Run.open(options.workspace.resolve(), options.name), options.json, world)


def _encode(words: list[str]) -> int:
    config, options = settings_of(words, "encode", "Encode the pictures and captions of judged pairs into the cache.")
    load_model_libraries()
    from ..cancellation import StopRequest
    from ..distributed import init_distributed
    from ..training.prepare_data import prepare
    from .progress_bar import watching

    workspace = options.workspace.resolve()
    with init_distributed() as world, watching() as listen:
        device, tell = world.device(config.training.device), _event_writer(listen) if world.is_main else _silent
        stop = StopRequest(workspace / "stop", patient=not world.is_single)
        material = prepare(config.checked(), workspace, device, tell, stop, world)
    if not world.is_main:
        return 0
    counts = {"pairs": len(material.encoded.pairs), "made": material.encoded.made, "reused": material.encoded.reused}
    _say("{pairs} pairs are encoded: {made} entries made, {reused} reused".format(**counts))
    if options.json:
        _say(json.dumps(counts))
    return 0


def _plan(words: list[str]) -> int:
    description = "Say what a training would take, of this card or of one that is not here."
    flags, resolve = parse_arguments(words, "plan", description)
    from ..memory_estimate.plan import make_plan, plan_memory

    fit = plan_memory(resolve, flags.preset, family=flags.family, gigabytes=flags.memory)
    lines, values = [fit.summary()], fit.as_json()
    if fit.config.base and fit.config.data.pairs:
        plan = make_plan(fit.config.checked(), flags.workspace)
        lines.append(plan.summary())
        values |= asdict(plan)
    _say("\n".join(lines))
    if flags.json:
        _say(json.dumps(values))
    return 0


def _import(words: list[str]) -> int:
    @dataclass
    class Import:
        """Take judged pairs, or pictures to be judged, from files into a dataset of the workspace."""

        path: tyro.conf.Positional[Path]
        dataset: Annotated[str, tyro.conf.arg(help="Its name; it is made if need be.")]
        workspace: Workspace
        layout: Annotated[str | None, tyro.conf.arg(help="See docs/data.md; by default what lies there tells.")] = None
        chosen_pattern: Annotated[str | None, tyro.conf.arg(help="OneTrainer: as {}_chosen.png.")] = None
        rejected_pattern: Annotated[str | None, tyro.conf.arg(help="OneTrainer: as {}_rejected.png.")] = None
        annotator: Annotated[str, tyro.conf.arg(help="Who judged, where the files do not say.")] = "import"
        rejected_captions: Annotated[
            Literal["same", "own"], tyro.conf.arg(help="kohya, OneTrainer: whether a rejected picture has its own.")
        ] = "same"
        json: Json = False

    options = parse(Import, words, "import", Import(tyro.MISSING, tyro.MISSING, default_workspace()))
    from ..cancellation import StopRequest
    from ..preferences.io.importer import import_pairs
    from ..preferences.store import open_store
    from .progress_bar import watching

    stop = StopRequest(options.workspace.resolve() / "stop")
    layout = {name: getattr(options, name) for name in ("layout", "chosen_pattern", "rejected_pattern", "annotator")}
    with stop.listening(), watching() as listen:
        report = import_pairs(
            open_store(options.workspace),
            options.dataset,
            options.path,
            **layout,
            anywhere=True,
            own_captions=options.rejected_captions == "own",
            tell=_event_writer(listen),
            stop=stop,
        )
    _say(str(report))
    if options.json:
        _say(json.dumps(asdict(report)))
    return stop.exit_code if report.stopped else 0 if report.useful else 2


def _targets(words: list[str]) -> int:
    @dataclass
    class Targets:
        """Make pairs of pictures that you want more of: the base paints, under their captions, the rejected ones."""

        folder: tyro.conf.Positional[Path]
        into: Annotated[str, tyro.conf.arg(help="The dataset; it is made if need be.")]
        base: Annotated[str, tyro.conf.arg(help="What paints: a checkpoint, a diffusers folder or a hub id.")]
        workspace: Workspace
        lora: Annotated[str | None, tyro.conf.arg(help="Paint with a LoRA: a file, or run:NAME for a run's.")] = None
        rejects: Annotated[int, tyro.conf.arg(help="Pictures generated for each of yours.")] = 1
        steps: Steps = None
        guidance: Guidance = None
        tokenizers: Annotated[str | None, tyro.conf.arg(help="Folder with a CLIP tokenizer, for single files.")] = None

    options = parse(Targets, words, "targets", Targets(*[tyro.MISSING] * 3, default_workspace()))
    from ..jobs.job import Status, wait
    from ..runs.run_folder import Run
    from ..services.job_kinds import start

    workspace, lora = options.workspace.resolve(), options.lora
    if lora and lora.startswith("run:"):
        lora = str(Run.open(workspace, lora.removeprefix("run:")).lora_file)
    settings = {"folder": str(options.folder), "dataset": options.into, "base": options.base, "lora": lora}
    settings |= {name: getattr(options, name) for name in ("rejects", "steps", "guidance", "tokenizers")}
    job = start(workspace, "targets", {name: value for name, value in settings.items() if value is not None})

    def show(status: Status) -> None:
        doing = f"{status.waiting_for} has the device" if status.waiting_for else status.message
        _say(doing + (f": {status.done} of {status.total}" if status.is_open and status.total else ""))

    try:
        return 0 if wait(job, show).phase == "finished" else 2
    except KeyboardInterrupt:
        job.stop()
        raise


def _export(words: list[str]) -> int:
    @dataclass
    class Export:
        """Write a dataset of the workspace as a folder of files."""

        dataset: tyro.conf.Positional[str]
        folder: tyro.conf.Positional[Path]
        workspace: Workspace
        layout: Annotated[str, tyro.conf.arg(help="See docs/data.md.")]
        json: Json = False

    options = parse(Export, words, "export", Export(*[tyro.MISSING] * 2, default_workspace(), tyro.MISSING))
    from ..cancellation import Cancelled, StopRequest
    from ..preferences.io.exporter import export_pairs
    from ..preferences.store import open_store
    from .progress_bar import watching

    stop = StopRequest(options.workspace.resolve() / "stop")
    try:
        with stop.listening(), watching() as listen:
            store = open_store(options.workspace)
            report = export_pairs(
                store, options.dataset, options.layout, options.folder, tell=_event_writer(listen), stop=stop
            )
    except Cancelled:
        _say("stopped; nothing was written")
        return stop.exit_code
    _say(str(report))
    if options.json:
        _say(json.dumps({**asdict(report), "folder": str(report.folder)}))
    return 0


def _lora(words: list[str]) -> int:
    @dataclass
    class Show:
        """Say what is in a LoRA file."""

        file: tyro.conf.Positional[Path]
        json: Json = False

    if words[:1] != ["show"]:
        raise UserError("say `mapo lora show FILE`")
    options = parse(Show, words[1:], "lora show")
    from ..lora.inspect import describe

    description = describe(options.file)
    _say(json.dumps(description.as_json()) if options.json else description.text())
    return 0


def _doctor(words: list[str]) -> int:
    @dataclass
    class Doctor:
        """Look for what is missing on this machine, and say the mend."""

        workspace: Workspace
        json: Json = False

    options = parse(Doctor, words, "doctor", Doctor(default_workspace()))
    from . import doctor

    findings = []
    for finding in doctor.examine(options.workspace.resolve()):
        findings.append(finding)
        if not options.json:
            doctor.print_finding(finding)
    if options.json:
        _say(json.dumps([asdict(finding) for finding in findings]))
    return int(any(finding.status == "missing" for finding in findings))


def _task(words: list[str]) -> int:
    if len(words) != 1:
        raise UserError("say `mapo task FOLDER`")
    from ..services.job_kinds import run_job

    return run_job(Path(words[0]))


def _studio(words: list[str]) -> int:
    # The one place where the arrow points up: a command has to start somewhere. Nothing else here needs Gradio.
    from ...web.app import main as studio

    return studio(words)


def _evidence(verb: str) -> Callable[[list[str]], int]:
    def run(words: list[str]) -> int:
        from . import evaluate_commands

        return getattr(evaluate_commands, verb)(words)

    return run


VERBS = {
    "studio": Verb(_studio, "collect, judge, train and compare in the browser"),
    "demo": Verb(_demo, "watch a small model learn a taste, on any computer, in a few minutes"),
    "train": Verb(_train, "train a LoRA from judged pairs"),
    "resume": Verb(_resume, "go on with a run that was stopped or killed"),
    "encode": Verb(_encode, "encode pictures and captions into the cache, without training"),
    "plan": Verb(_plan, "say what a training would take on this machine"),
    "import": Verb(_import, "take pairs or pictures from files into a dataset of the workspace"),
    "targets": Verb(_targets, "make pairs of pictures that you want: the base paints what they are better than"),
    "export": Verb(_export, "write a dataset of the workspace as files"),
    "compare": Verb(_evidence("compare"), "paint base and LoRAs side by side, and judge them blind"),
    "learning-curve": Verb(_evidence("learning_curve"), "say what more pairs would bring to a finished run"),
    "score": Verb(_evidence("score"), "let scorers rate what a LoRA changed, where their weights are there"),
    "lora": Verb(_lora, "lora show FILE: say what is in a LoRA file"),
    "doctor": Verb(_doctor, "look for what is missing on this machine"),
}


def _train_run(run: Run, as_json: bool, world: World) -> int:
    from ..cancellation import Cancelled, StopRequest
    from ..jobs.worker import run_training
    from ..reports.report import report_at_end
    from .progress_bar import watching

    stop = StopRequest(run.stop_file, patient=not world.is_single)
    if not world.is_main:
        with suppress(Cancelled):
            run_training(replace(run, writes=False), stop, world)
        return 0
    again = f"resume it by `mapo resume {run.name}`" + _workspace_flag(run.workspace)
    try:
        with watching() as listen:
            run.listeners.extend([listen, report_at_end(run)])
            outcome = run_training(run, stop, world, when_finished=_rate_unjudged_pairs)
    except Cancelled:
        _say(f"stopped before the first step; {again}")
        return stop.exit_code
    if outcome.finished:
        message = f"{outcome.message}\n" if outcome.message else ""
        _say(f"{message}the LoRA is {outcome.lora}\nwhat it learned: {run.report_file}")
    else:
        _say(f"stopped after step {outcome.step} of {outcome.steps}, saved; {again}\nthe LoRA so far: {outcome.lora}")
    if as_json:
        measured = outcome.agreement
        facts = {"finished": outcome.finished, "step": outcome.step, "agreement": measured and measured.agreement}
        facts |= {"kept": outcome.best_step, "early": outcome.stopped_early}
        facts |= {"agreement_low": measured and measured.low, "agreement_high": measured and measured.high}
        _say(json.dumps({**facts, "lora": str(outcome.lora), "report": str(run.report_file)}))
    return 0 if outcome.finished else stop.exit_code


def _rate_unjudged_pairs(run: Run) -> None:
    from ..services.job_kinds import rate_unjudged_pairs

    rate_unjudged_pairs(run)


def _workspace_flag(workspace: Path) -> str:
    return "" if workspace == default_workspace().resolve() else f" --workspace {workspace}"


def _event_writer(listen: Callable[[dict[str, Any]], None]) -> Callable[..., None]:
    return lambda event, **values: listen({"event": event, **values})


def _silent(*_: Any, **__: Any) -> None:
    """Report nothing: of several processes only the main one does."""


def _help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:{width}}  {verb.summary}" for name, verb in VERBS.items())
    return f"usage: mapo COMMAND ...\n\n{verbs}\n\n`mapo COMMAND --help` says more."


def _say(text: str, to: Any = None) -> None:
    print(text, file=to or sys.stdout, flush=True)

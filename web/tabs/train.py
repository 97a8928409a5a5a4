"""Train tab: one button with everything chosen, every setting below it, and the progress and result of a run."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ...trainer.config.run_config import RunConfig, parse_config
from ...trainer.device import nvidia_smi_memory
from ...trainer.errors import UserError
from ...trainer.jobs.gpu_queue import job_title, queued
from ...trainer.jobs.job import Job, start_training
from ...trainer.models.open import TINY
from ...trainer.reports.html import escape_text
from ...trainer.runs.run_folder import Run, all_runs
from ...trainer.services.training_proposal import Preflight, preflight, propose_config
from ..components.model_choices import copy_to_hosts
from ..components.run_panel import RunPanel, ask_for_more, is_measuring_curve
from ..components.settings_form import SettingsForm
from ..context import PageContext
from ..server.errors import show_errors

Plain = dict[str, Any]
"""A config as JSON has it."""

_MOST_RUNS = 100
_QUIET = {"show_progress": "hidden"}


def train_tab(context: PageContext) -> None:
    """What to train on the left, a run on the right: the one at work, or whichever is chosen."""
    continued = context.continued
    # On the page rather than a gr.State, whose newest value would meet fields that the page has not filled yet: empty
    # ones would count as what the person typed.
    proposed = gr.JSON(None, visible="hidden")
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            base = gr.Dropdown(context.bases(), value=TINY, label="Base", allow_custom_value=True)
            train = gr.Button("Train", variant="primary", size="lg", interactive=False, elem_id="train-button")
            needed = gr.HTML("", elem_classes="needs")
            queue = gr.HTML("", elem_classes="needs")
        with gr.Column(scale=5, min_width=480):
            which = gr.Dropdown([], label="Run", show_label=False, container=False, interactive=True, visible=False)
            which.preprocess = lambda name: name or None  # a new start of the studio knows no choices it sent before
            panel = RunPanel()
    with gr.Accordion("Details: every setting", open=False):
        form = SettingsForm(elsewhere=("base", "data.pairs"))
    timer, stamp = gr.Timer(1.0, active=False), gr.State(None)
    inputs, values = [context.dataset, base, proposed], form.components
    offer = [needed, train]
    view = [*panel.outputs, queue, timer, stamp]

    def chosen(before: Plain | None, base: str | None, values: tuple[Any, ...]) -> RunConfig:
        if before is None:
            raise UserError("choose or make a dataset first, at the top")
        return form.config(parse_config({**before, "base": (base or "").strip()}, "the proposal"), values)

    @show_errors
    def prepare(dataset: str | None, base: str | None, before: Plain | None, goes_on: Any, *values: Any):
        """Another dataset or base: another proposal, with what the person had changed in the last one."""
        if not dataset:
            no_dataset = Preflight((), ("No dataset is chosen: choose or make one at the top.",))
            return None, *_offer(no_dataset), *([gr.skip()] * len(values))
        config = propose_config(context.store, dataset, (base or "").strip(), _tokenizers(context), nvidia_smi_memory())
        shown = form.with_edits(config, parse_config(before, "the proposal"), values) if before else config
        if goes_on:
            adapter = shown.adapter.model_copy(update={"continue_from": goes_on["lora"]})
            shown = shown.model_copy(update={"adapter": adapter})
        return config.model_dump(mode="json"), *_offer(preflight(context.store, shown)), *form.shown(shown)

    @show_errors
    def check(_dataset: str | None, base: str | None, before: Plain | None, *values: Any):
        try:
            return _offer(preflight(context.store, chosen(before, base, values)))
        except UserError as error:
            return _offer(Preflight((), (str(error),)))

    @show_errors
    def begin(_dataset: str | None, base: str | None, before: Plain | None, *values: Any):
        config = chosen(before, base, values)
        in_the_way = preflight(context.store, config).problems
        if in_the_way:
            raise UserError(in_the_way[0])
        run = start_training(context.workspace, config)
        return _choices(context, run.name), None, *_view(run)

    def _view(run: Run | None, before: Any = None) -> list[Any]:
        line = queued(context.workspace)
        now = (panel.stamp(run), line, str(context.settings.read()))
        if before == now:
            return [gr.skip()] * len(view)
        return [
            *panel.shown(run, context.settings.read()),
            _line(line),
            gr.Timer(active=bool(line) or _is_changing(run)),
            now,
        ]

    @show_errors
    def look(name: str | None, before: Any):
        return _view(_run_named(context, name), before)

    @show_errors
    def choose(name: str | None):
        return _view(_run_named(context, name))

    @show_errors
    def arrive(name: str | None):
        """Coming to the tab: the run at work is shown, else the one that was, else the newest."""
        working = next((folder.name for folder in queued(context.workspace) if folder.parent.name == "runs"), None)
        run = _run_named(context, working or name) or next(iter(all_runs(context.workspace)), None)
        return gr.Dropdown(choices=context.bases()), _choices(context, run and run.name), *_view(run)

    def run_action(act: Callable[[Run], Any]) -> Callable[..., Any]:
        @show_errors
        def update(name: str | None):
            run = _run_named(context, name)
            if run is None:
                raise UserError("choose a run first")
            act(run)
            return _view(run)

        return update

    def copy(run: Run) -> None:
        gr.Info(escape(copy_to_hosts(run, context.settings.read())), duration=5)

    shown = [proposed, *offer, *values]
    gr.on(
        [context.dataset.change, base.change, continued.change], prepare, [*inputs, continued, *values], shown, **_QUIET
    )
    gr.on([context.page.load, context.tabs.change], prepare, [*inputs, continued, *values], shown, **_QUIET)
    gr.on([field.input for field in values], check, [*inputs, *values], offer, trigger_mode="always_last", **_QUIET)
    train.click(begin, [*inputs, *values], [which, continued, *view], **_QUIET).success(
        prepare, [*inputs, continued, *values], shown, **_QUIET
    )
    continued.change(lambda goes_on: goes_on["base"] if goes_on else gr.skip(), continued, base, **_QUIET)
    gr.on([context.page.load, context.tabs.change], arrive, which, [base, which, *view], **_QUIET)
    which.input(choose, which, view, **_QUIET)
    timer.tick(look, [which, stamp], view, **_QUIET)
    panel.stop.click(run_action(lambda run: Job(run.folder).stop()), which, view, **_QUIET)
    panel.resume.click(run_action(_resume), which, view, **_QUIET)
    panel.more.click(run_action(ask_for_more), which, view, **_QUIET)
    panel.copy.click(run_action(copy), which, view, **_QUIET)


def _resume(run: Run) -> None:
    job = Job(run.folder)
    if job.status().is_open:
        raise UserError(f"{run.name} is at work already")
    job.resume()


def _offer(needed: Preflight) -> tuple[str, gr.Button]:
    """What it takes or what is in the way, and whether the button may be pressed."""
    lines = [f'<li class="problem">{escape_text(problem)}</li>' for problem in needed.problems]
    lines += [f"<li>{escape_text(line)}</li>" for line in needed.estimates]
    return f"<ul>{''.join(lines)}</ul>", gr.Button(interactive=not needed.problems)


def _line(line: tuple[Path, ...]) -> str:
    """The jobs that wait behind the one at work."""
    waiting = [f"<li>{escape(job_title(folder))}</li>" for folder in line[1:]]
    return f"<ul><li><b>Waiting for their turn</b></li>{''.join(waiting)}</ul>" if waiting else ""


def _is_changing(run: Run | None) -> bool:
    return run is not None and (Job(run.folder).status().is_open or is_measuring_curve(run))


def _run_named(context: PageContext, name: str | None) -> Run | None:
    return next((run for run in all_runs(context.workspace) if run.name == name), None)


def _choices(context: PageContext, name: str | None) -> gr.Dropdown:
    names = [run.name for run in all_runs(context.workspace)][:_MOST_RUNS]
    return gr.Dropdown(choices=names, value=name if name in names else None, visible=len(names) > 1)


def _tokenizers(context: PageContext) -> Path | None:
    """ComfyUI brings CLIP's tokenizer, which single files lack."""
    comfyui = context.settings.read().comfyui
    folder = Path(comfyui, "comfy", "sd1_tokenizer")
    return folder if comfyui and folder.is_dir() else None

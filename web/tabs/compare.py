"""Compare tab: start a comparison of a LoRA, judge it blind, read its win rate, then see which image was which."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import gradio as gr
from PIL import Image

from ...trainer.errors import UserError
from ...trainer.evaluation.comparison import ComparisonResult, comparison_info, comparison_result, export_to_dataset
from ...trainer.evaluation.strength_sweep import sheet_of
from ...trainer.evaluation.win_rate import FEW
from ...trainer.jobs.job import Job, Status, all_jobs
from ...trainer.preferences.datasets import find_dataset, list_datasets
from ..components.comparison_form import comparison_form
from ..components.comparison_viewer import comparison_viewer
from ..components.generate_task import task_html
from ..context import PageContext
from ..server.errors import show_errors

_NEW = ("New comparison", "")
_QUIET = {"show_progress": "hidden"}
_SET_DATASET = """
const judge = element.querySelector("mapo-judge");
const update = () => {
  if (judge.getAttribute("dataset") !== props.value) judge.setAttribute("dataset", props.value || "");
};
update();
watch("value", update);
"""
_ELEMENT = """
<mapo-judge api="/mapo/api" dataset="">
  <div slot="empty">Every pair that is painted is judged. The result is on the left.</div>
</mapo-judge>
"""
_INTRODUCTION = """
<div class="compare-intro">
<p><b>Does it paint more to your taste?</b> Agreement with your judgements is measured while training; whether the
pictures are better, only blind judging can tell.</p>
<p>Both sides are painted with the same prompts and seeds. You see them without names, left and right at random, and
say which you like better. The result comes with how sure it is.</p>
<p>“Try strengths” paints the first prompts at several strengths, on one sheet.</p>
</div>
"""
_WAITING = '<div class="compare-intro"><p>Pairs can be judged as soon as they are painted.</p></div>'


def compare_tab(context: PageContext) -> None:
    """To the left what is compared and what came of it; to the right the pictures."""
    revealed = gr.State("")
    scene = gr.State(("new", ""))
    with gr.Row(equal_height=False):
        with gr.Column(scale=0, min_width=350, elem_id="compare-side"):
            chosen = gr.Dropdown([_NEW], value="", label="Comparison", elem_id="comparison")
            shown = gr.HTML("", elem_classes="task-pane")
            with gr.Row():
                pause = gr.Button("Pause", visible=False, min_width=80)
                go_on = gr.Button("Go on", visible=False, min_width=80)
                stop = gr.Button("Stop", visible=False, min_width=80)
            with gr.Column() as new:
                form = comparison_form(context)
            result = gr.HTML("", elem_id="compare-result")
            with gr.Column(visible=False) as afterwards:
                reveal = gr.Button("Show which is which")
                with gr.Column(visible=False) as feeding:
                    target = gr.Dropdown([], label="Train on these judgements too: add them to", elem_id="feed-target")
                    feed = gr.Button("Add them to this dataset")
        with gr.Column(scale=1, min_width=360):
            introduction = gr.HTML(_INTRODUCTION)
            sheet = gr.Image(
                show_label=False,
                visible=False,
                interactive=False,
                elem_id="strengths",
                buttons=["download", "fullscreen"],  # no "share": that would publish the picture
            )
            # Hidden rather than taken away: the element holds answers on their way.
            pane = gr.HTML(
                "",
                visible="hidden",
                elem_id="compare-pane",
                html_template=_ELEMENT,
                js_on_load=_SET_DATASET,
                apply_default_css=False,
            )
            viewer = comparison_viewer(context)
    timer = gr.Timer(1.5, active=False)
    watched = [shown, pause, go_on, stop, result, afterwards, reveal, scene, timer]

    @show_errors
    def watch(name: str, uncovered: str):
        return _watched(context, name or "", uncovered)

    @show_errors
    def choose(name: str):
        """What a comparison shows once, when it is chosen."""
        with context.store.reading() as session:
            datasets = [dataset.name for dataset in list_datasets(session)]
            there = {dataset.name: dataset for dataset in list_datasets(session, "comparison")}
        trained = comparison_info(there[name]).dataset if name in there else ""
        default = trained if trained in datasets else None
        targets = gr.Dropdown(choices=datasets, value=default)
        return gr.Column(visible=not name), gr.Column(visible=bool(datasets)), targets

    @show_errors
    def arrange(now: tuple[str, str]):
        """Which images are on the right."""
        kind, what = now
        return (
            gr.HTML(_INTRODUCTION if kind == "new" else _WAITING, visible=kind in ("new", "waiting")),
            gr.Image(value=_sheet(context, what), visible=True) if kind == "sheet" else gr.Image(visible=False),
            gr.HTML(what, visible=True) if kind == "judge" else gr.HTML("", visible="hidden"),
            gr.Column(visible=kind == "look"),
            what if kind == "look" else "",
        )

    @show_errors
    def started(name: str):
        """A comparison is shown as soon as it is begun; a sheet of strengths fills beside the form."""
        if not name:
            return gr.skip()
        job = Job.open(context.workspace, name)
        return _choices(context, job.settings()["name"] if job.kind == "compare" else "")

    def job_action(ask: Callable[[Job], object]) -> Callable[..., Any]:
        @show_errors
        def update(name: str, uncovered: str):
            task = _task(context, name or "")
            if task:
                ask(task)
            return _watched(context, name or "", uncovered)

        return update

    @show_errors
    def add(name: str, dataset: str | None):
        if not dataset:
            raise UserError("choose the dataset that they are added to")
        with context.store.writing() as session:
            added = export_to_dataset(session, find_dataset(session, name), find_dataset(session, dataset))
        gr.Info(f"{added} judgements added to {html.escape(dataset)}." if added else "They were there already.")

    seen = [chosen, revealed]
    gr.on(
        [context.page.load, context.tabs.change], lambda name: _refreshed(context, name or ""), chosen, chosen, **_QUIET
    )
    gr.on([context.page.load, context.tabs.change], show_errors(form.refresh), None, form.choices, **_QUIET)
    gr.on([context.page.load, context.tabs.change, timer.tick, revealed.change], watch, seen, watched, **_QUIET)
    form.started.change(started, form.started, chosen, **_QUIET).then(watch, seen, watched, **_QUIET)
    chosen.change(choose, chosen, [new, feeding, target], **_QUIET).then(watch, seen, watched, **_QUIET)
    scene.change(arrange, scene, [introduction, sheet, pane, viewer.panel, viewer.of], **_QUIET)
    reveal.click(lambda name, uncovered: "" if uncovered == name else name, seen, revealed, queue=False, **_QUIET)
    pause.click(job_action(Job.pause), seen, watched, **_QUIET)
    go_on.click(job_action(Job.resume), seen, watched, **_QUIET)
    stop.click(job_action(Job.stop), seen, watched, **_QUIET)
    feed.click(add, [chosen, target], None, **_QUIET)


def _watched(context: PageContext, name: str, uncovered: str) -> tuple[Any, ...]:
    """The line of the task, its buttons, the result, what is on the right, and whether to look again."""
    task = _task(context, name)
    status = task.status() if task else None
    now = _standing(context, name)
    is_open = status is not None and status.is_open
    if not name:
        scene = ("sheet", f"{task.name} {status.done}") if task and status and status.done else ("new", "")
    elif uncovered == name:
        scene = ("look", name)
    else:
        scene = ("judge", name) if now and now.pairs else ("waiting", "")
    quiet_end = status is not None and status.phase == "finished"
    return (
        task_html(None if quiet_end else status),
        gr.Button(visible=is_open),
        gr.Button(visible=status is not None and status.can_resume),
        gr.Button(visible=is_open),
        _result(context, name, now, status),
        gr.Column(visible=now is not None and now.judged > 0),
        gr.Button("Judge blind" if uncovered == name else "Show which is which"),
        scene,
        gr.Timer(active=is_open or bool(name)),
    )


def _result(context: PageContext, name: str, now: ComparisonResult | None, status: Status | None) -> str:
    if now is None or not now.pairs:
        return ""
    with context.store.reading() as session:
        info = comparison_info(find_dataset(session, name))
    lora = info.lora.removesuffix(".safetensors")
    lines = [f"<p>{now.judged} of {now.pairs} pairs judged</p>"]
    if now.rate.answers < FEW:
        lines.append(
            f"<p class='quiet'>What your answers say is shown from {FEW} on, so that it does not sway you.</p>"
        )
    else:
        verdict = now.rate.sentence(info.other)
        sentence = verdict[:1].upper() + verdict[1:] if now.rate.verdict == "open" else f"{lora} is {verdict}"
        lines.append(f"<p class='verdict {now.rate.verdict}'>{html.escape(sentence).replace(' %', '&nbsp;%')}.</p>")
        times = "once" if now.rate.neither == 1 else f"{now.rate.neither} times"
        neither = f" Both were bad {times}: that counts for neither." if now.rate.neither else ""
        lines.append(
            f"<p class='quiet'>The share of answers for {html.escape(lora)}, ties counting half, and where it lies "
            f"with 95 % certainty.{neither}</p>"
        )
    if info.fed_back:
        lines.append(f"<p class='quiet'>Added to {html.escape(info.fed_back)}.</p>")
    return "".join(lines)


def _standing(context: PageContext, name: str) -> ComparisonResult | None:
    """None while nothing of the comparison is generated."""
    with context.store.reading() as session:
        there = {dataset.name: dataset for dataset in list_datasets(session, "comparison")}
        return comparison_result(session, there[name]) if name in there else None


def _choices(context: PageContext, name: str) -> gr.Dropdown:
    """All comparisons; `name` is chosen if it is there."""
    names = _names(context)
    return gr.Dropdown(choices=[_NEW, *names], value=name if name in names else "")


def _refreshed(context: PageContext, name: str) -> gr.Dropdown:
    """All comparisons. A choice that still holds is not sent back: what was chosen meanwhile would be undone by it."""
    names = _names(context)
    return gr.Dropdown(choices=[_NEW, *names], **({} if name in ("", *names) else {"value": ""}))


def _names(context: PageContext) -> list[str]:
    """The newest first, those not generated yet before them."""
    with context.store.reading() as session:
        newest_first = sorted(list_datasets(session, "comparison"), key=lambda dataset: -dataset.created)
    there = [dataset.name for dataset in newest_first]
    waiting = [compared for _, compared in _tasks(context) if compared and compared not in there]
    return list(dict.fromkeys([*waiting, *there]))


def _task(context: PageContext, name: str) -> Job | None:
    """The job that generates a comparison; for none, the newest that tries strengths."""
    return next((task for task, compared in _tasks(context) if compared == name), None)


def _tasks(context: PageContext) -> Iterator[tuple[Job, str]]:
    """Those of this tab, the newest first, with the comparison that each generates: none where it tries strengths."""
    for job in all_jobs(context.workspace, "sweep", "compare"):
        if job.kind == "sweep":
            yield job, ""
            continue
        with suppress(UserError):  # a damaged folder must not take the others with it
            yield job, str(job.settings().get("name"))


def _sheet(context: PageContext, what: str) -> Image.Image | None:
    file = sheet_of(Job.open(context.workspace, what.split()[0]))
    if not file.is_file():
        return None
    with Image.open(file) as opened:
        return opened.copy()

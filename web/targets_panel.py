"""How do wanted pictures get rejected ones beside them, from the page? The task is a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from ..trainer.errors import UserError
from ..trainer.tasks import Status, Task, all_tasks, start
from .sentences import in_sentences
from .studio import Studio
from .task_view import task_html
from .uploads import folder_below

_KIND = "targets"


def targets_panel(studio: Studio, dataset_for: Callable[[str | None], str], changed: gr.State) -> None:
    """The folder of wanted pictures, what paints the rejected ones, and the buttons of the task.

    dataset_for: the name of the dataset they go into, given the picker's. changed: is given another value whenever
    there are new pairs.
    """
    gr.Markdown(
        "Pictures with a `.txt` caption beside each. The base paints the same captions, and yours count as better: "
        "as assumed, not judged, until somebody compares them.",
        elem_classes="quiet",
        container=False,
    )
    folder = gr.Textbox(
        label="Folder of the pictures, on this machine",
        interactive=bool(studio.allowed_roots),
        placeholder="below " + " or ".join(map(str, studio.allowed_roots))
        if studio.allowed_roots
        else "none is open to this page: start the studio with --root FOLDER",
        elem_id="targets-folder",
    )
    with gr.Row():
        base = gr.Dropdown(
            studio.bases(), value="tiny", label="Base", allow_custom_value=True, min_width=160, elem_classes="choice"
        )
        lora = gr.Dropdown(
            [("none", ""), *studio.loras()],
            value="",
            label="LoRA",
            allow_custom_value=True,
            min_width=120,
            elem_classes="choice",
        )
    with gr.Row():
        rejects = gr.Slider(1, 4, value=1, step=1, label="Rejected for each", min_width=160)
        steps = gr.Number(28, label="Steps", precision=0, minimum=1, maximum=1000, min_width=70)
        guidance = gr.Number(5.0, label="Guidance", minimum=1, maximum=100, min_width=70)
    with gr.Row(elem_classes="acts"):
        paint = gr.Button("Paint what to reject", variant="primary", min_width=120, elem_id="targets-paint")
        go_on = gr.Button("Go on", visible=False, min_width=90)
        stop = gr.Button("Stop", visible=False, min_width=90)
    shown = gr.HTML("", elem_classes="task-pane")
    timer = gr.Timer(1.0, active=False)
    view = [shown, paint, go_on, stop, timer, changed]
    fields = {"base": base, "lora": lora, "rejects": rejects, "steps": steps, "guidance": guidance}

    @in_sentences
    def begin(chosen: str | None, typed: str, *given: Any):
        settings = {name: value for name, value in zip(fields, given, strict=True) if value not in (None, "")}
        if not typed.strip():
            raise UserError("say in which folder the pictures are")
        if not settings.get("base"):
            raise UserError("choose the base to paint with")
        task = _latest(studio)
        if task and task.status().is_open:
            raise UserError("pictures are being painted already: stop that first, or wait until they are there")
        place = folder_below(studio.allowed_roots, typed)
        name = dataset_for(chosen)
        start(studio.workspace, _KIND, {**settings, "dataset": name, "folder": str(place)})
        return studio.picker(name), *_view(_latest(studio))

    def told(ask: Callable[[Task], None]) -> Callable[[], tuple[Any, ...]]:
        @in_sentences
        def tell():
            task = _latest(studio)
            if task:
                ask(task)
            return _view(task)

        return tell

    @in_sentences
    def look():
        return _view(_latest(studio))

    @in_sentences
    def offered():
        return gr.Dropdown(choices=studio.bases()), gr.Dropdown(choices=[("none", ""), *studio.loras()])

    quiet = {"show_progress": "hidden"}
    paint.click(begin, [studio.dataset, folder, *fields.values()], [studio.dataset, *view], **quiet)
    go_on.click(told(Task.go_on), None, view, **quiet)
    stop.click(told(Task.stop), None, view, **quiet)
    timer.tick(look, None, view, **quiet)
    gr.on([studio.page.load, studio.tabs.change], look, None, view, **quiet)
    gr.on([studio.page.load, studio.tabs.change], offered, None, [base, lora], **quiet)


def _latest(studio: Studio) -> Task | None:
    return next((task for task in all_tasks(studio.workspace) if task.kind == _KIND), None)


def _view(task: Task | None) -> tuple[Any, ...]:
    """What the panel shows: its line, the three buttons, the timer, and a value that tells of new pairs."""
    status = task.status() if task else Status("finished")
    return (
        task_html(status if task else None),
        gr.Button(visible=not status.is_open),
        gr.Button(visible=status.can_go_on),
        gr.Button(visible=status.is_open),
        gr.Timer(active=status.is_open),
        f"{task.name if task else ''} {status.phase} {status.done}",
    )

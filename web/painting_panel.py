"""How are candidates painted from the page? The task is a process of its own; here it is begun, watched and ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from ..trainer.demo.world import captions
from ..trainer.errors import UserError
from ..trainer.tasks import Status, Task, all_tasks, start
from .sentences import in_sentences
from .studio import Studio
from .task_view import task_html

_KIND = "generate"
_EXAMPLES = 12


def painting_panel(studio: Studio, dataset_for: Callable[[str | None], str], changed: gr.State) -> None:
    """Prompts, base and LoRA, and the buttons of the task that paints.

    dataset_for: the name of the dataset to paint for, given the picker's. changed: is given another value whenever
    there are new pictures.
    """
    prompts = gr.Textbox(
        label="Prompts, one a line (empty: those of the dataset)",
        lines=7,
        max_lines=14,
        placeholder="portrait of a woman in soft window light\na cat asleep on a red sofa",
    )
    examples = gr.Button("Fill in example prompts", size="sm", elem_classes="link")
    with gr.Row():
        base = gr.Dropdown(
            studio.bases(), value="tiny", label="Base", allow_custom_value=True, min_width=180, elem_classes="choice"
        )
        lora = gr.Dropdown(
            [("none", ""), *studio.loras()],
            value="",
            label="LoRA",
            allow_custom_value=True,
            min_width=140,
            elem_classes="choice",
        )
    count = gr.Slider(2, 16, value=4, step=1, label="Pictures for each prompt")
    with gr.Accordion("More", open=False):
        with gr.Row():
            steps = gr.Number(28, label="Steps", precision=0, minimum=1, maximum=1000, min_width=80)
            guidance = gr.Number(5.0, label="Guidance", minimum=1, maximum=100, min_width=80)
            width = gr.Number(None, label="Width (px)", precision=0, min_width=80)
            height = gr.Number(None, label="Height (px)", precision=0, min_width=80)
        with gr.Row():
            seed = gr.Number(0, label="First seed", precision=0, minimum=0, min_width=80)
            strength = gr.Number(1.0, label="LoRA strength", min_width=80)
            mixed = gr.Checkbox(False, label="Every second picture without the LoRA", min_width=160)
        negative = gr.Textbox(label="Negative prompt", lines=1)
    with gr.Row(elem_classes="acts"):
        paint = gr.Button("Paint", variant="primary", min_width=90)
        pause = gr.Button("Pause", visible=False, min_width=90)
        go_on = gr.Button("Go on", visible=False, min_width=90)
        stop = gr.Button("Stop", visible=False, min_width=90)
    shown = gr.HTML("", elem_classes="task-pane")
    timer = gr.Timer(1.0, active=False)
    view = [shown, paint, pause, go_on, stop, timer, changed]
    fields = {
        "base": base,
        "lora": lora,
        "candidates": count,
        "steps": steps,
        "guidance": guidance,
        "width": width,
        "height": height,
        "first_seed": seed,
        "strength": strength,
        "mixed": mixed,
        "negative": negative,
    }

    @in_sentences
    def begin(chosen: str | None, text: str, *given: Any):
        settings = {name: value for name, value in zip(fields, given, strict=True) if value not in (None, "")}
        if not settings.get("lora"):
            settings.pop("mixed", None)
        if not settings.get("base"):
            raise UserError("choose the base to paint with")
        task = _latest(studio)
        if task and task.status().is_open:
            raise UserError("pictures are being painted already: stop that first, or wait until they are there")
        name = dataset_for(chosen)
        start(studio.workspace, _KIND, {**settings, "dataset": name, "prompts": text.splitlines()})
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
    examples.click(lambda: ("\n".join(_examples()), "tiny"), None, [prompts, base], queue=False, **quiet)
    paint.click(begin, [studio.dataset, prompts, *fields.values()], [studio.dataset, *view], **quiet)
    pause.click(told(Task.pause), None, view, **quiet)
    go_on.click(told(Task.go_on), None, view, **quiet)
    stop.click(told(Task.stop), None, view, **quiet)
    timer.tick(look, None, view, **quiet)
    gr.on([studio.page.load, studio.tabs.change], look, None, view, **quiet)
    gr.on([studio.page.load, studio.tabs.change], offered, None, [base, lora], **quiet)


def _latest(studio: Studio) -> Task | None:
    return next((task for task in all_tasks(studio.workspace) if task.kind == _KIND), None)


def _view(task: Task | None) -> tuple[Any, ...]:
    """What the panel shows: its line, the four buttons, the timer, and a value that tells of new pictures."""
    status = task.status() if task else Status("finished")
    return (
        task_html(status if task else None),
        gr.Button(visible=not status.is_open),
        gr.Button(visible=status.is_open),
        gr.Button(visible=status.can_go_on),
        gr.Button(visible=status.is_open),
        gr.Timer(active=status.is_open),
        f"{task.name if task else ''} {status.phase} {status.done}",
    )


def _examples() -> list[str]:
    """Prompts of the tiny world, of every colour, shape and place."""
    every = captions()
    return [every[(number * 37) % len(every)] for number in range(_EXAMPLES)]

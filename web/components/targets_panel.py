"""Targets panel: rejected images are generated for a folder of images that a person wants more of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from ...trainer.errors import UserError
from ..context import PageContext
from ..server.errors import show_errors
from ..server.uploads import folder_below
from .generate_task import GenerateTask, base_and_lora, steps_and_guidance


def targets_panel(context: PageContext, dataset_for: Callable[[str | None], str], changed: gr.State) -> None:
    """The folder of wanted images, what generates the rejected ones, and the buttons of the task.

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
        interactive=bool(context.allowed_roots),
        placeholder="below " + " or ".join(map(str, context.allowed_roots))
        if context.allowed_roots
        else "none is open to this page: start the studio with --root FOLDER",
        elem_id="targets-folder",
    )
    base, lora = base_and_lora(context, (160, 120))
    with gr.Row():
        rejects = gr.Slider(1, 4, value=1, step=1, label="Rejected for each", min_width=160)
        steps, guidance = steps_and_guidance(base, 70)
    with gr.Row(elem_classes="acts"):
        generate = gr.Button("Paint what to reject", variant="primary", min_width=120, elem_id="targets-paint")
        task = GenerateTask(context, "targets", generate, None, changed)
    task.shows()
    fields = {"base": base, "lora": lora, "rejects": rejects, "steps": steps, "guidance": guidance}

    @show_errors
    def start(chosen: str | None, typed: str, *values: Any):
        if not typed.strip():
            raise UserError("say in which folder the pictures are")
        wanted = folder_below(context.allowed_roots, typed)
        settings = dict(zip(fields, values, strict=True)) | {"folder": str(wanted)}
        return task.begin(settings, lambda: dataset_for(chosen))

    inputs = [context.dataset, folder, *fields.values()]
    generate.click(start, inputs, [context.dataset, *task.view], show_progress="hidden")

"""Generate panel: prompts, base, LoRA and settings of the candidates to generate, and the buttons of the task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from ...trainer.demo.shapes_world import captions
from ..context import PageContext
from ..server.errors import show_errors
from .generate_task import GenerateTask, base_and_lora, steps_and_guidance, width_and_height

_EXAMPLES = 12


def generate_panel(context: PageContext, dataset_for: Callable[[str | None], str], changed: gr.State) -> None:
    """Prompts, base and LoRA, and the buttons of the task.

    dataset_for: the name of the dataset to generate for, given the picker's. changed: is given another value whenever
    there are new images.
    """
    prompts = gr.Textbox(
        label="Prompts, one a line (empty: those of the dataset)",
        lines=7,
        max_lines=14,
        placeholder="portrait of a woman in soft window light\na cat asleep on a red sofa",
    )
    examples = gr.Button("Fill in example prompts", size="sm", elem_classes="link")
    base, lora = base_and_lora(context, (180, 140))
    count = gr.Slider(2, 16, value=4, step=1, label="Pictures for each prompt")
    with gr.Accordion("More", open=False):
        with gr.Row():
            steps, guidance = steps_and_guidance(base)
            width, height = width_and_height()
        with gr.Row():
            seed = gr.Number(0, label="First seed", precision=0, minimum=0, min_width=80)
            strength = gr.Number(1.0, label="LoRA strength", min_width=80)
            mixed = gr.Checkbox(False, label="Every second picture without the LoRA", min_width=160)
        negative = gr.Textbox(label="Negative prompt", lines=1)
    with gr.Row(elem_classes="acts"):
        generate = gr.Button("Paint", variant="primary", min_width=90)
        pause = gr.Button("Pause", visible=False, min_width=90)
        task = GenerateTask(context, "generate", generate, pause, changed)
    task.shows()
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

    @show_errors
    def start(chosen: str | None, text: str, *values: Any):
        settings = dict(zip(fields, values, strict=True)) | {"prompts": text.splitlines()}
        if not settings["lora"]:
            settings.pop("mixed")
        return task.begin(settings, lambda: dataset_for(chosen))

    quiet = {"show_progress": "hidden"}
    examples.click(lambda: ("\n".join(_examples()), "tiny"), None, [prompts, base], queue=False, **quiet)
    generate.click(start, [context.dataset, prompts, *fields.values()], [context.dataset, *task.view], **quiet)


def _examples() -> list[str]:
    """Prompts of the tiny world, of every colour, shape and place."""
    prompts = captions()
    return [prompts[(number * 37) % len(prompts)] for number in range(_EXAMPLES)]

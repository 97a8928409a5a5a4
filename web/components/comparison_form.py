"""Comparison form: which LoRA is compared with what on which prompts, or tried at several strengths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ...trainer.errors import UserError
from ...trainer.evaluation.generate_comparison import (
    MAX_PROMPTS,
    known_prompts,
    known_settings,
    run_of,
    start_comparison,
)
from ...trainer.sampling.task_settings import cleaned
from ...trainer.services.job_kinds import start
from ..context import PageContext
from ..server.errors import show_errors
from .generate_task import steps_and_guidance, width_and_height

_SHEET_ROWS = 3
_QUIET = {"show_progress": "hidden"}


@dataclass(frozen=True)
class ComparisonForm:
    """The parts that the tab listens to. Both buttons start a job; `started` then holds its name."""

    started: gr.State
    lora: gr.Dropdown
    refresh: Callable[[], tuple[Any, ...]]
    """New choices for `choices`, as a page is opened."""
    choices: list[gr.Dropdown]


def comparison_form(context: PageContext) -> ComparisonForm:
    """Which LoRA, against what, on which prompts; the rest is what the run was trained with."""
    started = gr.State("")
    lora = gr.Dropdown(_loras(context), value="", label="LoRA", allow_custom_value=True)
    against = gr.Dropdown(_others(context), value="", label="Compared with", allow_custom_value=True)
    base = gr.Dropdown(context.bases(), value="tiny", label="Painted with the base", allow_custom_value=True)
    prompts = gr.Textbox(label="Prompts, one a line", lines=5, max_lines=5, placeholder="what it was not trained on")
    seeds = gr.Slider(1, 8, value=1, step=1, label="Pairs for each prompt")
    note = gr.Markdown("", elem_classes="quiet", container=False)
    with gr.Accordion("More", open=False):
        name = gr.Textbox(label="Name", placeholder="made from the LoRA's", max_lines=1)
        with gr.Row():
            steps, guidance = steps_and_guidance(base)
        with gr.Row():
            width, height = width_and_height()
        with gr.Row():
            strength = gr.Number(1.0, label="Strength", min_width=80)
            seed = gr.Number(0, label="First seed", precision=0, minimum=0, min_width=80)
        negative = gr.Textbox(label="Negative prompt", lines=1)
    with gr.Row():
        compare = gr.Button("Compare", variant="primary", min_width=140)
        sweep = gr.Button("Try strengths", min_width=110)

    sampling = {
        "base": base,
        "steps": steps,
        "guidance": guidance,
        "width": width,
        "height": height,
        "first_seed": seed,
        "negative": negative,
    }
    only_comparing = {"against": against, "strength": strength, "seeds": seeds, "name": name}

    @show_errors
    def picked(chosen: str, typed: str):
        """Fill in what the LoRA's run knows."""
        run = run_of(context.workspace, chosen)
        if run is None:
            return gr.skip(), gr.skip(), "Write prompts that the LoRA was not trained on." if chosen else ""
        held_out = known_prompts(run).held_out
        if not held_out:
            return run.config().base, gr.skip(), "No prompt was held out: write some that were not trained on."
        shown = held_out[:MAX_PROMPTS]
        these = "This prompt was" if len(shown) == 1 else f"These {len(shown)} prompts were"
        return run.config().base, "\n".join(shown), f"{these} held out: the LoRA was not trained on them."

    @show_errors
    def count(typed: str, each: float):
        pairs = len(cleaned(typed.splitlines())) * int(each)
        return gr.Button(f"Compare ({pairs} pairs)" if pairs > 1 else "Compare")

    @show_errors
    def compare_loras(chosen: str, typed: str, *values: Any):
        prompt_list = cleaned(typed.splitlines())
        settings = _non_empty({**sampling, **only_comparing}, values)
        comparison = start_comparison(context.workspace, {**settings, "lora": chosen, "prompts": prompt_list})
        if comparison.trained_on:
            gr.Warning(
                f"{comparison.trained_on} of {len(prompt_list)} prompts were trained on: "
                "there the LoRA shows what it remembers."
            )
        return comparison.job.name

    @show_errors
    def try_strengths(chosen: str, typed: str, *values: Any):
        if not chosen:
            raise UserError("choose the LoRA to try")
        settings = _non_empty(sampling, values)
        known = known_settings(run_of(context.workspace, chosen), settings.get("base"))
        settings |= {key: known[key] for key in ("prediction", "tokenizers") if key in known}
        rows = cleaned(typed.splitlines())[:_SHEET_ROWS]
        return start(context.workspace, "sweep", {**settings, "lora": chosen, "prompts": rows}).name

    lora.change(picked, [lora, prompts], [base, prompts, note])
    gr.on([prompts.change, seeds.change], count, [prompts, seeds], compare, queue=False, **_QUIET)
    compare.click(compare_loras, [lora, prompts, *sampling.values(), *only_comparing.values()], started)
    sweep.click(try_strengths, [lora, prompts, *sampling.values()], started)

    def refresh() -> tuple[Any, ...]:
        choices = (_loras(context), _others(context), context.bases())
        return tuple(gr.Dropdown(choices=some) for some in choices)

    return ComparisonForm(started, lora, refresh, [lora, against, base])


def _loras(context: PageContext) -> list[tuple[str, str]]:
    return [("choose one", ""), *context.loras()]


def _others(context: PageContext) -> list[tuple[str, str]]:
    return [("the base alone", ""), *context.loras()]


def _non_empty(fields: dict[str, Any], values: tuple[Any, ...]) -> dict[str, Any]:
    return {name: value for name, value in zip(fields, values, strict=True) if value not in (None, "")}

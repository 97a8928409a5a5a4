"""Library tab: the LoRAs that were trained here, the newest first, and what can be done with each."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from ...trainer.errors import UserError
from ...trainer.jobs.job import Job
from ...trainer.models.safetensors_file import read_header
from ...trainer.reports.summary import course, summarize_run
from ...trainer.runs.run_folder import Run, all_runs
from ...trainer.services import lora_library
from ...trainer.text import format_interval, format_size
from ..components.model_choices import copy_label, copy_to_hosts
from ..components.run_panel import PHASES, agreement_html, curves_html, links_html, strip_html
from ..context import PageContext
from ..server.errors import show_errors
from ..server.run_files import address

_MOST = 200
_QUIET = {"show_progress": "hidden"}

# Cards are buttons, so that the keyboard reaches them; which one was pressed goes to Python as the component's value.
_CHOOSE = """
element.addEventListener("click", (event) => {
  const card = event.target.closest("[data-run]");
  if (card) trigger("select", { value: card.dataset.run });
});
"""


def library_tab(context: PageContext) -> None:
    """Cards of all runs; below them, the one that was chosen."""
    chosen = gr.State(None)
    cards = gr.HTML("", js_on_load=_CHOOSE)
    with gr.Column(visible=False, elem_classes="card") as detail:
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                head, strip = gr.HTML(""), gr.HTML("")
            with gr.Column(scale=2, min_width=320):
                with gr.Row(elem_classes="acts"):
                    go_on = gr.Button("Continue training from it", size="sm")
                    copy = gr.Button("Copy to ComfyUI / A1111", size="sm")
                links = gr.HTML("", elem_classes="run-links")
                facts = gr.HTML("")
                with gr.Row(elem_id="rename-row"):
                    name_field = gr.Textbox(show_label=False, container=False, max_lines=1, min_width=160, scale=1)
                    rename = gr.Button("Rename", size="sm", scale=0, min_width=90)
                    delete = gr.Button("Delete", size="sm", scale=0, min_width=90)
                with gr.Row(visible=False, elem_classes="acts") as sure:
                    question = gr.Markdown("", container=False)
                    yes = gr.Button("Delete it", variant="stop", size="sm", scale=0)
                    no = gr.Button("Keep it", size="sm", scale=0)
        curves = gr.HTML("")
    view = [chosen, cards, detail, head, strip, links, facts, name_field, copy, go_on, curves, sure]

    def shown(name: str | None) -> list[Any]:
        runs = all_runs(context.workspace)[:_MOST]
        run = next((run for run in runs if run.name == name), None)
        if run is None:
            return [None, _cards(runs, None), gr.Column(visible=False), *[gr.skip()] * 8, gr.Row(visible=False)]
        summary, has_lora = summarize_run(run), run.lora_file.is_file()
        return [
            run.name,
            _cards(runs, run.name),
            gr.Column(visible=True),
            f"<h3>{escape(run.name)}</h3>{agreement_html(summary)}",
            strip_html(run, list(run.events())),
            links_html(run),
            _facts(run),
            run.name,
            gr.Button(copy_label(context.settings.read()), visible=has_lora),
            gr.Button(visible=has_lora),
            curves_html(summary),
            gr.Row(visible=False),
        ]

    def chosen_run(name: str | None) -> Run:
        if not name:
            raise UserError("choose a LoRA first")
        return Run.open(context.workspace, name)

    @show_errors
    def look(name: str | None):
        now = shown(name)
        if now[0] != name:  # it is gone
            return now
        # Its answer may come late: what was chosen, typed or asked meanwhile stays.
        stays = (chosen, detail, name_field, sure)
        return [gr.skip() if part in stays else value for part, value in zip(view, now, strict=True)]

    @show_errors
    def choose(event: gr.EventData):
        return shown(str(event._data.get("value")))

    @show_errors
    def give_name(name: str | None, given: str):
        return shown(lora_library.rename(chosen_run(name), " ".join(given.split())).name)

    @show_errors
    def ask(name: str | None):
        run = chosen_run(name)
        if Job(run.folder).is_alive():
            raise UserError(f"{run.name} is being trained: stop it first")
        warning = "Its LoRA, pictures and state go; judgements and copies elsewhere stay. It cannot be taken back."
        return gr.Row(visible=True), warning

    @show_errors
    def remove(name: str | None):
        lora_library.delete(chosen_run(name))
        gr.Info("Deleted.", duration=2)
        return shown(None)

    @show_errors
    def copied(name: str | None):
        gr.Info(escape(copy_to_hosts(chosen_run(name), context.settings.read())), duration=5)

    @show_errors
    def continued(name: str | None):
        run = chosen_run(name)
        return {"base": run.config().base, "lora": str(run.lora_file)}, gr.Tabs(selected="train")

    gr.on([context.page.load, context.tabs.change], look, chosen, view, **_QUIET)
    cards.select(choose, None, view, **_QUIET)
    gr.on([rename.click, name_field.submit], give_name, [chosen, name_field], view, **_QUIET)
    delete.click(ask, chosen, [sure, question], **_QUIET)
    no.click(lambda: gr.Row(visible=False), None, sure, queue=False, **_QUIET)
    yes.click(remove, chosen, view, **_QUIET)
    copy.click(copied, chosen, None, **_QUIET)
    go_on.click(continued, chosen, [context.continued, context.tabs], **_QUIET)


def _cards(runs: list[Run], chosen: str | None) -> str:
    if not runs:
        return '<p class="quiet">No LoRA was made here yet: they come from Train.</p>'
    return f'<div class="run-cards">{"".join(_card(run, run.name == chosen) for run in runs)}</div>'


def _card(run: Run, is_chosen: bool) -> str:
    parts = [PHASES[Job(run.folder).status().phase]]
    try:
        summary = summarize_run(run)
    except UserError as error:
        parts = [str(error)]
    else:
        measured = course(summary.evaluations, "agreement", "low", "high")
        parts += [f"agrees on {format_interval(*measured[-1][1:])}"] if measured else []
        parts += [f"{summary.step} steps"] if summary.step else []
    two = ""
    if all((run.samples_folder / f"{kind}-0.png").is_file() for kind in ("base", "newest")):
        sources = (address(run, f"samples/{kind}-0.png") for kind in ("base", "newest"))
        two = "".join(f'<img loading="lazy" src="{source}?{run.name}" alt="">' for source in sources)
    return (
        f'<button class="run-card" data-run="{escape(run.name, quote=True)}" aria-pressed="{str(is_chosen).lower()}">'
        f'<div class="two">{two}</div><div class="words"><strong>{escape(run.name)}</strong>'
        f"{escape(' · '.join(parts))}</div></button>"
    )


def _facts(run: Run) -> str:
    """What it was trained on, and what its file says of itself."""
    summary = summarize_run(run)
    started = summary.started
    rows = {
        "Trained on": f"{summary.config.data.pairs} ({started.get('pairs', '?')} pairs)",
        "Base": summary.config.base,
        "Steps": f"{summary.step} of {summary.steps}",
    }
    if summary.config.adapter.continue_from:
        rows["Goes on from"] = summary.config.adapter.continue_from
    if run.lora_file.is_file():
        rows["Size"] = format_size(run.lora_file.stat().st_size)
        for key, value in sorted(read_header(run.lora_file).metadata.items()):
            if key.startswith("mapo.") and key not in ("mapo.base", "mapo.steps", "mapo.pairs"):
                rows[key.removeprefix("mapo.").replace("_", " ").capitalize()] = value
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows.items())
    return f'<dl class="facts">{listed}</dl>'

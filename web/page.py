"""The page: a header that all tabs share, and the five tabs."""

from __future__ import annotations

import importlib
from pathlib import Path

import gradio as gr

from ..trainer.errors import UserError
from ..trainer.preferences.datasets import create_dataset, list_datasets
from ..trainer.preferences.store import Store
from .context import TABS, PageContext
from .server.errors import show_errors
from .server.preferences_file import SettingsFile

HEAD = '<script type="module" src="/mapo/static/judge/mapo-judge.js"></script>'


def build_page(store: Store, settings: SettingsFile, allowed_roots: tuple[Path, ...], has_login: bool) -> gr.Blocks:
    """The page of one workspace. has_login: who uses it has a name by logging in, and may log out."""
    with gr.Blocks(title="MaPO Studio", fill_width=True, analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.HTML("MaPO Studio", elem_id="name")
        with gr.Row(elem_id="header"):
            dataset = gr.Dropdown(
                choices=[], label="Dataset", show_label=False, container=False, elem_id="dataset", interactive=True
            )
            # Gradio refuses what is not among the choices that it sent, of which it knows nothing after a new start.
            # Whether there is such a dataset is checked where it is used.
            dataset.preprocess = lambda name: name or None
            new = gr.Button("New dataset", size="sm")
            gear = gr.Button("Settings", size="sm")
            if has_login:
                gr.HTML('<form method="post" action="/logout"><button>Log out</button></form>', elem_id="logout")
        tabs = gr.Tabs(render=False)
        context = PageContext(store.workspace, store, settings, allowed_roots, page, dataset, tabs, gr.State(None))
        _new_dataset(context, new)
        _settings(context, gear, has_login)
        tabs.render()
        with tabs:
            for name in TABS:
                with gr.Tab(name.capitalize(), id=name):
                    _tab(context, name)
        page.load(show_errors(lambda chosen: _opened(context, chosen)), dataset, dataset, show_progress="hidden")
    return page


def _tab(context: PageContext, name: str) -> None:
    module = importlib.import_module(f".tabs.{name}", __package__)
    getattr(module, f"{name}_tab")(context)


def _opened(context: PageContext, chosen: str | None) -> gr.Dropdown:
    """The datasets of today: the one that was chosen before the page was loaded again, else the newest."""
    with context.store.reading() as session:
        there = list_datasets(session)
    newest = max(there, key=lambda dataset: dataset.created, default=None)
    names = [dataset.name for dataset in there]
    if chosen in names:  # not sent back: what is chosen while the page loads would be undone by it
        return gr.Dropdown(choices=names)
    return gr.Dropdown(choices=names, value=newest and newest.name)


def _new_dataset(context: PageContext, button: gr.Button) -> None:
    shown = gr.State(False)
    with gr.Row(visible=False, elem_id="new-dataset") as row:
        name = gr.Textbox(
            show_label=False, placeholder="Name of the new dataset: a subject, a style", container=False, scale=4
        )
        make = gr.Button("Create", variant="primary", scale=0, min_width=100)

    @show_errors
    def create(name: str):
        name = " ".join(name.split())
        if not name:
            raise UserError("give the dataset a name")
        with context.store.writing() as session:
            create_dataset(session, name)
        return context.picker(name), gr.Row(visible=False), False, ""

    button.click(lambda is_shown: (gr.Row(visible=not is_shown), not is_shown), shown, [row, shown], queue=False)
    gr.on([make.click, name.submit], create, name, [context.dataset, row, shown, name], show_progress="hidden")


def _settings(context: PageContext, gear: gr.Button, has_login: bool) -> None:
    shown = gr.State(False)
    with gr.Column(visible=False, elem_id="settings") as panel:
        with gr.Row():
            comfyui = gr.Textbox(label="ComfyUI's folder", placeholder="its checkpoints are offered as bases")
            webui = gr.Textbox(label="A1111's or Forge's folder", placeholder="likewise")
            loras = gr.Textbox(label="Copy finished LoRAs to", placeholder="a folder")
        with gr.Row():
            annotator = gr.Textbox(label="Your name, as the one who judges", visible=not has_login)
            look = gr.Radio(["dark", "light"], label="Look")
            save = gr.Button("Save", variant="primary", scale=0, min_width=100)
    fields = {"comfyui": comfyui, "webui": webui, "loras": loras, "annotator": annotator, "look": look}

    @show_errors
    def toggle(is_shown: bool):
        now = context.settings.read()
        return gr.Column(visible=not is_shown), not is_shown, *(getattr(now, name) for name in fields)

    @show_errors
    def save_settings(*values: str):
        context.settings.change(**{name: value or "" for name, value in zip(fields, values, strict=True)})
        gr.Info("Kept.", duration=2)
        return gr.Column(visible=False), False

    gear.click(toggle, shown, [panel, shown, *fields.values()], queue=False, show_progress="hidden")
    save.click(save_settings, list(fields.values()), [panel, shown], show_progress="hidden").success(
        None, look, js="(look) => { if (!location.search.includes('__theme=' + look)) location.search = '' }"
    )

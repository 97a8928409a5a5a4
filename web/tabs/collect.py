"""Collect tab: images get into a dataset by upload, from a folder, imported with their judgements, or generated."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from ...trainer.errors import UserError
from ...trainer.preferences.api import StatisticsRequest, statistics
from ...trainer.preferences.datasets import create_dataset, find_dataset, list_datasets
from ...trainer.preferences.io.importer import ImportReport, import_pairs
from ...trainer.preferences.io.output_folders import NO_PROMPT
from ..components.generate_panel import generate_panel
from ..components.import_progress import import_with_progress
from ..components.targets_panel import targets_panel
from ..context import PageContext
from ..server.errors import show_errors
from ..server.uploads import MAX_FILES, StagedUpload, discard, folder_below, stage_uploads

_FIRST = "my taste"
"""The name of the first dataset, where pictures are brought before any was made."""


def collect_tab(context: PageContext) -> None:
    """Uploading and generating images side by side, below what the dataset holds so far."""
    changed = gr.State("")
    with gr.Row(elem_id="collected"):
        counts = gr.Markdown("", elem_classes="counts")
        judge = gr.Button("Judge now", variant="primary", scale=0, min_width=120, visible=False)
    with gr.Row(equal_height=False):
        with gr.Column(min_width=340, elem_classes="card"):
            gr.Markdown("#### Bring pictures", container=False)
            _upload_panel(context, changed)
            with gr.Accordion("Only pictures that you want more of?", open=False):
                targets_panel(context, lambda chosen: _dataset_for(context, chosen), changed)
        with gr.Column(min_width=340, elem_classes="card"):
            gr.Markdown("#### Paint candidates", container=False)
            generate_panel(context, lambda chosen: _dataset_for(context, chosen), changed)

    @show_errors
    def count(chosen: str | None, request: gr.Request):
        sentence, can_judge = _counted(context, chosen, context.annotator_of(request))
        return sentence, gr.Button(visible=can_judge)

    triggers = [context.dataset.change, changed.change, context.tabs.change]
    gr.on(triggers, count, context.dataset, [counts, judge], show_progress="hidden")
    judge.click(lambda: gr.Tabs(selected="judge"), None, context.tabs, queue=False, show_progress="hidden")


def _upload_panel(context: PageContext, changed: gr.State) -> None:
    files = gr.File(label="Drop pictures, zips or a parquet", file_count="multiple", height=170, elem_id="drop")
    folder = gr.Textbox(
        label="or a folder on this machine",
        placeholder=_folder_hint(context.allowed_roots),
        interactive=bool(context.allowed_roots),
    )
    prompt = gr.Textbox(
        label="Prompt, for pictures that do not carry their own", placeholder="what they were painted for", max_lines=3
    )
    add = gr.Button("Add to the dataset", variant="primary", elem_classes="act")
    report = gr.Markdown("", elem_classes="quiet", container=False)

    @show_errors
    def upload_files(
        chosen: str | None, dropped: Sequence[str] | None, typed: str, prompt_text: str, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        paths = [Path(path) for path in dropped or ()]
        if len(paths) > MAX_FILES:
            raise UserError(f"these are {len(paths)} files; drop {MAX_FILES} at most, or one zip of them")
        if not paths and not typed.strip():
            raise UserError("drop some pictures first, or say in which folder they are")
        source = folder_below(context.allowed_roots, typed) if typed.strip() else None
        name, annotator = chosen or _first(context), context.annotator_of(request)
        notes: list[str] = []
        waits_for_prompt = False
        with stage_uploads(paths, prompt_text) as (staged, useless):
            notes += [f"{_plain(file)}: no picture, caption, zip or parquet, so it was left out" for file in useless]
            for upload in [*staged, *([StagedUpload(source, str(source))] if source else [])]:
                importing = partial(import_pairs, context.store, name, upload.path, annotator=annotator)
                for line in (report := _WithResult(import_with_progress(importing))):
                    yield gr.skip(), _paragraphs([*notes, line]), gr.skip(), gr.skip()
                notes.append(f"**{_plain(upload.name)}**: {_plain(str(report.value))}")
                waits_for_prompt |= any(left.reason == NO_PROMPT for left in report.value.left)
        if waits_for_prompt:
            notes.append("Type the prompt of those that carry none and add them again: nothing is counted twice.")
        else:
            discard(paths)
        kept = gr.skip() if waits_for_prompt else None
        yield context.picker(name), _paragraphs(notes), kept, f"brought {time.time()}"

    add.click(lambda: gr.Button(interactive=False), None, add, queue=False, show_progress="hidden").then(
        upload_files,
        [context.dataset, files, folder, prompt],
        [context.dataset, report, files, changed],
        show_progress="hidden",
    ).then(lambda: gr.Button(interactive=True), None, add, queue=False, show_progress="hidden")


class _WithResult:
    """The lines of a generator, and then what it returned."""

    def __init__(self, lines: Generator[str, None, ImportReport]) -> None:
        self._lines = lines
        self.value: ImportReport

    def __iter__(self) -> Iterator[str]:
        self.value = yield from self._lines


def _first(context: PageContext) -> str:
    """The name of the dataset that pictures go into where none was chosen: a first one, if there is none at all."""
    with context.store.reading() as session:
        if list_datasets(session):
            raise UserError("choose a dataset first, at the top")
    return _FIRST


def _dataset_for(context: PageContext, chosen: str | None) -> str:
    """The dataset to generate for, which is there afterwards."""
    name = chosen or _first(context)
    with context.store.writing() as session:
        return (find_dataset if chosen else create_dataset)(session, name).name


def _paragraphs(lines: Sequence[str]) -> str:
    return "\n\n".join(line.replace("\n", "  \n") for line in lines)


def _counted(context: PageContext, chosen: str | None, annotator: str) -> tuple[str, bool]:
    """What the dataset holds, in a sentence; and whether there is something to judge."""
    if not chosen:
        return "Bring pictures or paint some: two or more for each prompt make pairs to judge.", False
    counts = statistics(context.store, StatisticsRequest(dataset=chosen), annotator)
    if not counts.pairs:
        return "There are no pairs yet. Two or more pictures of the same prompt make one.", False
    prompts = "prompt" if counts.prompts == 1 else "prompts"
    return f"**{counts.pairs}** pairs of {counts.prompts} {prompts}. {_plain(counts.sentence)}", counts.waiting > 0


def _folder_hint(roots: Sequence[Path]) -> str:
    if not roots:
        return "none is open to this page: start the studio with --root FOLDER"
    return "below " + " or ".join(map(str, roots))


def _plain(text: str) -> str:
    """Names of files are from anywhere, and Markdown takes HTML."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]()#+-!|<>&~" else letter for letter in text)

"""How do pictures get into a dataset? Dropped, read from a folder, imported with their judgements, or painted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ...trainer.errors import UserError
from ...trainer.preferences.collecting import create_dataset, find_dataset, list_datasets
from ...trainer.preferences.importing import import_pairs
from ...trainer.preferences.statistics import statistics
from ..bringing import Brought, laid_out
from ..painting_panel import painting_panel
from ..sentences import in_sentences
from ..studio import Studio
from ..uploads import MOST_FILES, discard, folder_below

_FIRST = "my taste"
"""The name of the first dataset, where pictures are brought before any was made."""


def collect_tab(studio: Studio) -> None:
    """Two ways side by side, bringing pictures and painting them, below what the dataset holds so far."""
    changed = gr.State("")
    with gr.Row(elem_id="collected"):
        counts = gr.Markdown("", elem_classes="counts")
        judge = gr.Button("Judge now", variant="primary", scale=0, min_width=120, visible=False)
    with gr.Row(equal_height=False):
        with gr.Column(min_width=340):
            gr.Markdown("#### Bring pictures")
            _bringing(studio, changed)
        with gr.Column(min_width=340):
            gr.Markdown("#### Paint candidates")
            painting_panel(studio, lambda chosen: _dataset_for(studio, chosen), changed)

    @in_sentences
    def count(chosen: str | None, request: gr.Request):
        sentence, can_judge = _counted(studio, chosen, studio.annotator_of(request))
        return sentence, gr.Button(visible=can_judge)

    triggers = [studio.dataset.change, changed.change, studio.tabs.change]
    gr.on(triggers, count, studio.dataset, [counts, judge], show_progress="hidden")
    judge.click(lambda: gr.Tabs(selected="judge"), None, studio.tabs, queue=False, show_progress="hidden")


def _bringing(studio: Studio, changed: gr.State) -> None:
    files = gr.File(label="Drop pictures, zips or a parquet", file_count="multiple", height=170, elem_id="drop")
    folder = gr.Textbox(
        label="or a folder on this machine",
        placeholder=_folder_hint(studio.allowed_roots),
        interactive=bool(studio.allowed_roots),
    )
    prompt = gr.Textbox(
        label="Prompt, for pictures that do not carry their own", placeholder="what they were painted for", max_lines=3
    )
    add = gr.Button("Add to the dataset", variant="primary")
    report = gr.Markdown("", elem_classes="quiet", container=False)

    @in_sentences
    def bring(
        chosen: str | None, dropped: Sequence[str] | None, typed: str, said: str, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        paths = [Path(path) for path in dropped or ()]
        if len(paths) > MOST_FILES:
            raise UserError(f"these are {len(paths)} files; drop {MOST_FILES} at most, or one zip of them")
        if not paths and not typed.strip():
            raise UserError("drop some pictures first, or say in which folder they are")
        place = folder_below(studio.allowed_roots, typed) if typed.strip() else None
        yield gr.skip(), "Reading …", gr.Button(interactive=False), gr.skip(), gr.skip()
        try:
            name = _dataset_for(studio, chosen)
            annotator = studio.annotator_of(request)
            with laid_out(paths, said) as (brought, useless):
                places = [*brought, *([Brought(place, str(place))] if place else [])]
                told = [f"{file}: no picture, caption, zip or parquet, so it was left out" for file in useless]
                for one in places:
                    told.append(f"**{_plain(one.name)}**: {_plain(_imported(studio, name, one, annotator))}")
            discard(paths)
        except BaseException:
            # The button must be there again, whatever happened; the error is shown by `in_sentences`.
            yield gr.skip(), "", gr.Button(interactive=True), gr.skip(), gr.skip()
            raise
        yield studio.picker(name), "\n\n".join(told), gr.Button(interactive=True), None, f"brought {told}"

    add.click(
        bring,
        [studio.dataset, files, folder, prompt],
        [studio.dataset, report, add, files, changed],
        show_progress="hidden",
    )


def _imported(studio: Studio, dataset: str, brought: Brought, annotator: str) -> str:
    report = import_pairs(studio.store, dataset, brought.path, annotator=annotator)
    return str(report)


def _dataset_for(studio: Studio, chosen: str | None) -> str:
    """The chosen dataset, or, where there is none at all yet, a first one."""
    with studio.store.writing() as session:
        if chosen:
            return find_dataset(session, chosen).name
        if list_datasets(session):
            raise UserError("choose a dataset first, at the top")
        return create_dataset(session, _FIRST).name


def _counted(studio: Studio, chosen: str | None, annotator: str) -> tuple[str, bool]:
    """What the dataset holds, in a sentence; and whether there is something to judge."""
    if not chosen:
        return "Bring pictures or paint some: two or more for each prompt make pairs to judge.", False
    with studio.store.reading() as session:
        found = statistics(session, find_dataset(session, chosen), annotator)
    if not found.pairs:
        return "There are no pairs yet. Two or more pictures of the same prompt make one.", False
    return f"{found.pairs} pairs, {found.judged} of them judged by you, {found.waiting} waiting.", found.waiting > 0


def _folder_hint(roots: Sequence[Path]) -> str:
    if not roots:
        return "none is open to this page: start the studio with --root FOLDER"
    return "below " + " or ".join(map(str, roots))


def _plain(text: str) -> str:
    """Names of files are from anywhere, and Markdown takes HTML."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]()#+-!|<>&~" else letter for letter in text)

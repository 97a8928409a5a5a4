"""Which parts of the page show one run, and what can be done with it?"""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from ...trainer.errors import UserError
from ...trainer.jobs import job
from ...trainer.reports.html import text as words
from ...trainer.reports.summary import summarise
from ...trainer.runs.run_folder import Run
from ..server.preferences_file import Settings
from ..server.run_files import address
from .copying import copy_label
from .more_pairs import curve_status, is_asked, more_pairs_html
from .run_view import agreement_html, curves_html, log_html, progress_html, strip_html

_NOTHING = (
    '<p class="quiet">Nothing was trained yet. Judge some pairs, then press Train: everything is chosen already, and '
    "what is learned shows here.</p>"
)


class RunPanel:
    """Built where Gradio is now. `outputs` are what `shown` gives values for, in its order."""

    def __init__(self) -> None:
        with gr.Row(elem_classes="run-head"):
            with gr.Column(scale=4, min_width=280):
                self._progress = gr.HTML(_NOTHING)
                self._agreement = gr.HTML("", visible=False)
            with gr.Column(scale=1, min_width=150):
                self.stop = gr.Button("Stop and keep", visible=False, size="sm")
                self.resume = gr.Button("Resume", visible=False, size="sm")
                self.more = gr.Button("Would more pairs help?", visible=False, size="sm")
                self.copy = gr.Button("Copy to ComfyUI / A1111", visible=False, size="sm")
                self._links = gr.HTML("", elem_classes="run-links")
        self._strip = gr.HTML("", visible=False)
        self._curves = gr.HTML("", visible=False)
        self._more = gr.HTML("", visible=False)
        with gr.Accordion("Log", open=False, visible=False) as self._has_log:
            self._log = gr.HTML("")
        self.outputs = [
            self._progress,
            self._agreement,
            self.stop,
            self.resume,
            self.more,
            self.copy,
            self._links,
            self._strip,
            self._curves,
            self._more,
            self._log,
            self._has_log,
        ]

    @staticmethod
    def stamp(run: Run | None) -> tuple[Any, ...] | None:
        """What changes whenever something else is to be shown; cheap."""
        if run is None:
            return None
        sizes = [file.stat().st_size if file.exists() else 0 for file in (run.events_file, run.folder / "log.txt")]
        return run.name, *sizes, job.status(run).phase, run.lora_file.exists(), curve_status(run)

    @staticmethod
    def shown(run: Run | None, settings: Settings) -> list[Any]:
        """The values of `outputs`."""
        hidden = [gr.Button(visible=False)] * 4
        if run is None:
            nothing = [_html("")] * 3
            return [_NOTHING, _html(""), *hidden, "", *nothing, "", gr.Accordion(visible=False)]
        status, events = job.status(run), list(run.events())
        try:
            summary = summarise(run)
        except UserError as error:
            return [
                f'<p class="run-message">{words(str(error))}</p>',
                _html(""),
                *hidden,
                "",
                *[_html("")] * 3,
                *_log(run),
            ]
        stirs, has_lora = status.phase in ("waiting", "running"), run.lora_file.is_file()
        return [
            progress_html(run, status, events),
            _html(agreement_html(summary)),
            gr.Button(visible=stirs),
            gr.Button(visible=status.phase in ("stopped", "failed", "died")),
            gr.Button(visible=status.phase == "finished" and not is_asked(run)),
            gr.Button(copy_label(settings), visible=has_lora and not stirs),
            links_html(run) if not stirs else "",
            _html(strip_html(run, events)),
            _html(curves_html(summary)),
            _html(more_pairs_html(run)),
            *_log(run),
        ]


def _html(inside: str) -> gr.HTML:
    """An empty one would still take its room."""
    return gr.HTML(inside, visible=bool(inside))


def _log(run: Run) -> list[Any]:
    return [log_html(run), gr.Accordion(visible=True)]


def links_html(run: Run) -> str:
    """The LoRA to download and the report, as far as they are there."""
    links = []
    if run.lora_file.is_file():
        path = escape(str(run.lora_file), quote=True)
        links.append(f'<a href="{address(run, "lora")}" download title="{path}">Download LoRA</a>')
    if run.report_file.is_file():
        links.append(f'<a href="{address(run, "report")}" target="_blank">Report</a>')
    if run.lora_file.is_file():
        links.append(f"<small>{escape(str(run.lora_file))}</small>")
    return " ".join(links)

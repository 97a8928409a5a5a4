"""Generation tasks on a page: the buttons that start, pause and stop one, and its progress line and bar.

The task is a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from ...trainer.errors import UserError
from ...trainer.jobs.job import Job, Status, all_jobs
from ...trainer.reports.html import escape_text
from ...trainer.sampling.defaults import steps_and_cfg_at
from ...trainer.services.job_kinds import start
from ...trainer.text import format_duration
from ..context import PageContext
from ..server.errors import show_errors

_WORDS = {
    "waiting": "waits for its turn",
    "running": "running",
    "paused": "paused",
    "finished": "finished",
    "stopped": "stopped",
    "failed": "failed",
    "crashed": "ended unexpectedly",
}


def base_and_lora(context: PageContext, widths: tuple[int, int]) -> tuple[gr.Dropdown, gr.Dropdown]:
    """What to generate with, offered anew whenever the page or a tab is opened. widths: the least of each, in px."""
    with gr.Row():
        base = gr.Dropdown(
            context.bases(),
            value="tiny",
            label="Base",
            allow_custom_value=True,
            min_width=widths[0],
            elem_classes="choice",
        )
        lora = gr.Dropdown(
            [("none", ""), *context.loras()],
            value="",
            label="LoRA",
            allow_custom_value=True,
            min_width=widths[1],
            elem_classes="choice",
        )

    @show_errors
    def offered():
        return gr.Dropdown(choices=context.bases()), gr.Dropdown(choices=[("none", ""), *context.loras()])

    gr.on([context.page.load, context.tabs.change], offered, None, [base, lora], show_progress="hidden")
    return base, lora


def optional_number(label: str, placeholder: str, min_width: int = 80) -> gr.Textbox:
    """A number that may be left empty. placeholder: what it is then.

    Typed as text, which the settings read as a number: Gradio's own field of numbers turns an empty value into 0.
    """
    return gr.Textbox(label=label, placeholder=placeholder, max_lines=1, min_width=min_width)


def width_and_height() -> tuple[gr.Textbox, gr.Textbox]:
    """Two fields in px that may be left empty, for the square that the base was trained for."""
    return optional_number("Width (px)", "the base's"), optional_number("Height (px)", "the base's")


def steps_and_guidance(base: gr.Dropdown, min_width: int = 80) -> tuple[gr.Textbox, gr.Textbox]:
    """Two fields that may be left empty, for the base's own, and show what that is of the base in `base`."""

    def own(chosen: str | None) -> tuple[str, str]:
        steps, guidance = steps_and_cfg_at(chosen or "")
        return str(steps), f"{guidance:g}"

    steps, guidance = own(str(base.value or ""))
    fields = optional_number("Steps", steps, min_width), optional_number("Guidance", guidance, min_width)

    def show_own(chosen: str | None):
        return [gr.Textbox(placeholder=shown) for shown in own(chosen)]

    base.change(show_own, base, list(fields), show_progress="hidden")
    return fields


class GenerateTask:
    """The buttons of the newest task of one kind, and what is seen of it."""

    def __init__(
        self, context: PageContext, kind: str, start_button: gr.Button, pause: gr.Button | None, changed: gr.State
    ):
        """To be made inside the row of buttons, right behind `start_button`; `shows` ends it below that row.

        pause: None where the task is only stopped. changed: is given another value whenever there are new pictures.
        """
        self._context, self._kind, self._pause = context, kind, pause
        self._go_on = gr.Button("Go on", visible=False, min_width=90)
        self._stop = gr.Button("Stop", visible=False, min_width=90)
        self._start, self._changed = start_button, changed
        self.view: list[Any] = []
        """What is shown anew whenever the task may stand otherwise; empty before `shows`."""

    def shows(self) -> None:
        """Put the line of the task here, and let the buttons and the clock do their work."""
        timer = gr.Timer(1.0, active=False)
        pauses = [self._pause] if self._pause else []
        line = gr.HTML("", elem_classes="task-pane")
        self.view = [line, self._start, *pauses, self._go_on, self._stop, timer, self._changed]
        quiet = {"show_progress": "hidden"}
        for button, ask in ((self._pause, Job.pause), (self._go_on, Job.resume), (self._stop, Job.stop)):
            if button:
                button.click(self._updating(ask), None, self.view, **quiet)
        look = self._updating(lambda _: None)
        timer.tick(look, None, self.view, **quiet)
        gr.on([self._context.page.load, self._context.tabs.change], look, None, self.view, **quiet)

    def begin(self, settings: Mapping[str, Any], dataset: Callable[[], str]) -> tuple[Any, ...]:
        """Begin it, and say what the dataset's picker and the view show then.

        settings: empty ones are left out. dataset: its name; asked only once nothing stands in the way, as it may be
        made by that. Raises UserError where no base is chosen or such a task is at work.
        """
        chosen = {name: value for name, value in settings.items() if value not in (None, "")}
        if not chosen.get("base"):
            raise UserError("choose the base to generate with")
        latest = self._latest()
        if latest and latest.status().is_open:
            raise UserError("pictures are being generated already: stop that first, or wait until they are there")
        name = dataset()
        start(self._context.workspace, self._kind, {**chosen, "dataset": name})
        return self._context.picker(name), *self._state()

    def _updating(self, ask: Callable[[Job], object]) -> Callable[[], tuple[Any, ...]]:
        @show_errors
        def update():
            if latest := self._latest():
                ask(latest)
            return self._state()

        return update

    def _latest(self) -> Job | None:
        return next(iter(all_jobs(self._context.workspace, self._kind)), None)

    def _state(self) -> tuple[Any, ...]:
        """The line, the buttons, the timer, and a value that tells of new pictures."""
        latest = self._latest()
        status = latest.status() if latest else Status("finished")
        return (
            task_html(status if latest else None),
            gr.Button(visible=not status.is_open),
            *([gr.Button(visible=status.is_open)] if self._pause else []),
            gr.Button(visible=status.can_resume),
            gr.Button(visible=status.is_open),
            gr.Timer(active=status.is_open),
            f"{latest.name if latest else ''} {status.phase} {status.done}",
        )


def task_html(status: Status | None) -> str:
    """A line about a task and its bar, as HTML; empty for none. Everything in it is escaped."""
    if status is None:
        return ""
    parts = [_WORDS[status.phase]]
    if status.total:
        parts.append(f"{status.done} of {status.total}")
    if status.phase == "running" and status.seconds_left is not None:
        parts.append(f"{format_duration(status.seconds_left)} left")
    if status.waiting_for:
        parts.append(f"{status.waiting_for} has the device")
    if status.message:
        parts.append(status.message)
    share = 100 * status.done / status.total if status.total else 0
    return (
        f'<div class="task {status.phase}"><div class="task-bar"><div style="width:{share:.1f}%"></div></div>'
        f"<p>{escape_text(' · '.join(parts))}</p></div>"
    )

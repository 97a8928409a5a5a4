"""Run report: one HTML file that tells a person what it learned, made from the run's folder alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel

from ..atomic_files import write_text
from ..runs.run_folder import Event, Run
from ..text import format_percent, format_size
from . import run_charts
from .html import Html, chart_card, element, enlargeable, escape_text, page, paragraph, picture, section, table
from .sections import data_section, evidence_sections
from .summary import Summary, damage, headline, how_it_ended, how_sure, measured, summarize_run

_STATES = {"finished": "Finished", "stopped": "Stopped", "failed": "Failed", "open": "Not finished"}


def write_report(run: Run) -> Path:
    """Write `run.report_file` and return it.

    What the run has not come to (no events, no images, no measurement) has a sentence in its place. Raises UserError
    where run.toml cannot be read or the report not be written.
    """
    summary = summarize_run(run)
    body = [
        _top(summary),
        *added_sections(run, summary.step),
        _samples(run, summary),
        _curves(summary),
        *evidence_sections(run),
        data_section(summary),
        _loading(run, summary),
        _files(run),
        _settings(summary),
    ]
    write_text(run.report_file, page(f"{run.name} - MaPO Studio", body))
    return run.report_file


def report_at_end(run: Run) -> Callable[[Event], None]:
    """A listener for `run.listeners`: writes the report whenever a training of `run` ends, however it ends.

    A run that has not begun, or was stopped before its first step, gets none: there is nothing to say yet.
    """

    def listen(event: Event) -> None:
        if event["event"] in ("finished", "stopped", "failed") and event.get("step") != 0 and run.has_begun():
            write_report(run)

    return listen


def _top(summary: Summary) -> Html:
    sentence = escape_text(headline(summary) + ".")
    evaluation = measured(summary)
    if evaluation:
        share = format_percent(evaluation["agreement"])
        sentence = Html(sentence.replace(f"you on {share} ", f"you on <em>{share}</em> ", 1))
    state = [element("b", escape_text(_STATES[summary.ending])), escape_text(f" · {summary.name} · MaPO Studio")]
    words = element(
        "div",
        element("p", *state, kind=f"eyebrow {summary.ending}"),
        element("h1", sentence),
        *(paragraph(one) for one in how_sure(summary)),
        paragraph(how_it_ended(summary), "soft"),
    )
    alarm = damage(summary)
    return Html(
        element("header", words, chart_card(run_charts.agreement(summary), summary.steps), kind="hero")
        + (paragraph(alarm, "alarm") if alarm else "")
        + "".join(paragraph(_sentence(warning), "note") for warning in summary.warnings)
    )


def _samples(run: Run, summary: Summary) -> Html:
    sheets = sorted(run.samples_folder.glob("step-*.png")) if run.samples_folder.is_dir() else []
    if not sheets:
        return section("What it paints", paragraph("No sample pictures were painted.", "empty"))
    shown = list(dict.fromkeys([sheets[0], sheets[len(sheets) // 2], sheets[-1]]))
    how = (
        "The same prompts and the same noise each time: what changes is what was learned. Click a sheet to enlarge it."
    )
    figures = (
        enlargeable(picture(sheet, f"Sample pictures: {moment}"), moment)
        for sheet in shown
        for moment in [_moment(sheet, summary)]
    )
    return section("What it paints", paragraph(how, "soft"), element("div", *figures, kind="strip"))


def _moment(sheet: Path, summary: Summary) -> str:
    step = sheet.stem.removeprefix("step-").lstrip("0") or "0"
    if step == "0":
        return "Before training"
    end = str(summary.step if summary.early else summary.steps)
    kept = ", kept" if step == str(summary.kept) and step != end else ""
    return f"Step {step}, the end" if step == end else f"Step {step}{kept}"


def _curves(summary: Summary) -> Html:
    if not summary.step_events and not summary.evaluations:
        return section("How it went", paragraph("Not one step was taken.", "empty"))
    charts = (
        run_charts.errors(summary),
        run_charts.margin(summary),
        run_charts.loss(summary),
        run_charts.learning_rate(summary),
    )
    return section(
        "How it went",
        paragraph(
            "Pale lines are single steps, which jump because each sees other pairs at other noise levels; "
            "the strong line is their running mean.",
            "soft",
        ),
        element("div", *(chart_card(chart, summary.steps) for chart in charts), kind="charts"),
    )


def _loading(run: Run, summary: Summary) -> Html:
    if not run.lora_file.is_file():
        return section("How to use it", paragraph("There is no LoRA file yet.", "empty"))
    file, base = run.lora_file.name, Path(summary.config.base).name
    if summary.config.base == "tiny":
        return section(
            "How to use it",
            paragraph(
                f"`{file}` fits the small model that comes with MaPO Studio, and ComfyUI and Forge do not know it. "
                "A LoRA trained on SDXL or SD 1.5 is written in the same form, for those programs."
            ),
        )
    hosts = {
        "ComfyUI": (
            f"Copy `{file}` into `ComfyUI/models/loras` and press R.",
            "Put a Load LoRA node behind Load Checkpoint; strength_model 1.0 is what was trained.",
        ),
        "Forge, AUTOMATIC1111": (
            f"Copy `{file}` into `models/Lora` and press Refresh in the Lora tab.",
            f"Click its card, or write `<lora:{run.name}:1>` into the prompt.",
        ),
        "diffusers": (
            f"`pipe.load_lora_weights({str(run.folder)!r}, weight_name={file!r}, adapter_name='taste')`",
            "`pipe.set_adapters('taste', 1.0)`",
        ),
    }
    cards = [
        element("div", element("h3", escape_text(host)), *(paragraph(line) for line in lines), kind="card hosts")
        for host, lines in hosts.items()
    ]
    fits = f"It belongs to {base}; on relatives of that model it works the better, the closer they are."
    return section("How to use it", paragraph(fits, "soft"), element("div", *cards, kind="columns three"))


def _files(run: Run) -> Html:
    what = {
        run.lora_file: "the LoRA",
        run.settings_file: "the settings",
        run.events_file: "everything that happened, one line of JSON each",
        run.samples_folder: "sample pictures",
        run.state_folder: "what a stopped run goes on from",
    }
    rows = [
        (file.name, format_size(file.stat().st_size) if file.is_file() else "", meaning)
        for file, meaning in what.items()
        if file.exists()
    ]
    when = paragraph(f"As of {datetime.now().astimezone():%Y-%m-%d %H:%M}, in", "soft")
    return section("Files", when, paragraph(f"`{run.folder}`"), table(rows, header=False))


def _settings(summary: Summary) -> Html:
    config, defaults = summary.config, type(summary.config)()
    parts = [name for name in type(config).model_fields if isinstance(getattr(config, name), BaseModel)]
    cards = [_settings_of("run", config, defaults, {})]
    cards += [_settings_of(part, getattr(config, part), getattr(defaults, part), summary.calibrated) for part in parts]
    return section(
        "Settings",
        paragraph("What was changed stands out; the rest is as it comes.", "soft"),
        element("div", *cards, kind="settings"),
    )


def _settings_of(title: str, part: BaseModel, default: BaseModel, resolved: dict[str, Any]) -> Html:
    """resolved: what settings that are "auto" came to, by their names."""
    rows = ""
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        if isinstance(value, BaseModel):
            continue
        changed = value != getattr(default, name)
        kind = "changed" if changed else "default"
        rows += element("dt", escape_text(name), kind=kind) + element(
            "dd", escape_text(_plainly(value, resolved.get(name))), kind=kind
        )
        if changed and field.description:
            rows += element("dd", escape_text(field.description), kind="why")
    return element("div", element("h3", escape_text(title.capitalize())), element("dl", Html(rows)), kind="card")


def _plainly(value: object, resolved: object = None) -> str:
    if value == "auto" and resolved is not None:
        return f"auto: {_plainly(resolved)}"
    if value is None or value == () or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return "; ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _sentence(words: str) -> str:
    """A warning as the log has it, begun and ended as a sentence."""
    words = words.strip()
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")


Content: TypeAlias = "str | Path | Sequence[Sequence[object]]"
"""One paragraph, one picture file, or the rows of a table (the first is its header)."""

_FILE = "report-added.json"


def add_sections(run: Run, step: int, sections: Sequence[tuple[str, Content]]) -> None:
    """Keep sections, each a title and what is in it, for every report of `run` as long as it stands at `step`.

    The report has them once it is written again. Tables hold what JSON does.
    """
    kept = [[title, {"picture": _place(run, one)} if isinstance(one, Path) else one] for title, one in sections]
    write_text(run.folder / _FILE, json.dumps({"step": step, "sections": kept}, ensure_ascii=False, indent=1))


def added_sections(run: Run, step: int) -> list[Html]:
    """What was kept for `run` at `step`; nothing where it was trained on since, or the file is damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads((run.folder / _FILE).read_text(encoding="utf-8"))
        if kept["step"] == step:
            return [_section(run, title, content) for title, content in kept["sections"]]
    return []


def _section(run: Run, title: str, content: str | dict[str, str] | list[list[object]]) -> Html:
    if isinstance(content, dict):
        return section(title, picture(run.folder / content["picture"], title))
    return section(title, paragraph(content) if isinstance(content, str) else table(content))


def _place(run: Run, file: Path) -> str:
    """From the run's folder, which may be renamed."""
    return file.relative_to(run.folder).as_posix() if file.is_relative_to(run.folder) else str(file)

"""Which sections of its own does a report get from whoever made the run, such as the demo's before and after?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from ..atomic_files import write_text
from ..runs.run_folder import Run
from .html import Html, paragraph, picture, section, table

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
        told = json.loads((run.folder / _FILE).read_text(encoding="utf-8"))
        if told["step"] == step:
            return [_section(run, title, content) for title, content in told["sections"]]
    return []


def _section(run: Run, title: str, content: str | dict[str, str] | list[list[object]]) -> Html:
    if isinstance(content, dict):
        return section(title, picture(run.folder / content["picture"], title))
    return section(title, paragraph(content) if isinstance(content, str) else table(content))


def _place(run: Run, file: Path) -> str:
    """From the run's folder, which may be renamed."""
    return file.relative_to(run.folder).as_posix() if file.is_relative_to(run.folder) else str(file)

"""Settings form: every setting of a training as a field of the page, read from the config itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import gradio as gr
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ...trainer.config.run_config import RunConfig, is_expert, parse_config

Path = tuple[str, ...]
"""Of a field: ("training", "steps")."""

_TEXTS = tuple[str, ...]


class SettingsForm:
    """Fields for every setting of RunConfig but those that are chosen elsewhere on the page, grouped by part."""

    def __init__(self, elsewhere: Sequence[str]) -> None:
        """Build the components where Gradio is now. elsewhere: dotted names that have a place of their own."""
        self._fields: dict[Path, FieldInfo] = {}
        self.components: list[gr.components.Component] = []
        for title, part in _parts():
            fields = [(path, field) for path, field in part if ".".join(path) not in elsewhere and not is_expert(field)]
            gr.Markdown(f"**{title}**", container=False)
            with gr.Row(elem_classes="settings-part"):
                for path, field in fields:
                    self._fields[path] = field
                    self.components.append(_component(path, field))

    def shown(self, config: RunConfig) -> list[Any]:
        """The values of `components` for a config."""
        return [_shown(_value(config, path), field) for path, field in self._fields.items()]

    def config(self, config: RunConfig, values: Sequence[Any]) -> RunConfig:
        """`config` with what stands in `components`. Raises UserError naming the wrong field."""
        settings = config.model_dump()
        for (path, field), value in zip(self._fields.items(), values, strict=True):
            part = settings
            for name in path[:-1]:
                part = part[name]
            part[path[-1]] = _parsed(value, field, _value(config, path))
        return parse_config(settings, "Details")

    def with_edits(self, proposed: RunConfig, before: RunConfig, values: Sequence[Any]) -> RunConfig:
        """`proposed` with what the person changed against an earlier proposal; `proposed` where that is no config."""
        settings = proposed.model_dump()
        for (path, field), value, was in zip(self._fields.items(), values, self.shown(before), strict=True):
            if value == was:
                continue
            part = settings
            for name in path[:-1]:
                part = part[name]
            part[path[-1]] = _parsed(value, field, _value(before, path))
        return parse_config(settings, "Details")


def _parts() -> Iterator[tuple[str, list[tuple[Path, FieldInfo]]]]:
    """Every part of the config with its fields; those of the config itself are "Run"."""
    own = [((name,), field) for name, field in RunConfig.model_fields.items() if not _is_part(field)]
    yield "Run", own
    for name, field in RunConfig.model_fields.items():
        if _is_part(field):
            part: type[BaseModel] = field.annotation  # type: ignore[assignment]
            yield (part.__doc__ or name).rstrip("."), [((name, key), inner) for key, inner in part.model_fields.items()]


def _is_part(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _component(path: Path, field: FieldInfo) -> gr.components.Component:
    kind, may_be_none = _kind(field)
    about = {"label": _label(path), "info": field.description, "interactive": True, "min_width": 250}
    if kind is bool:
        return gr.Checkbox(**about)
    if get_origin(kind) is Literal:
        return gr.Dropdown(list(get_args(kind)), **about)
    if kind in (int, float):
        # No bounds: Gradio would refuse a number without naming its field. pydantic names it.
        if may_be_none:
            # As text: a page turns an empty gr.Number into 0 as soon as it shows it. pydantic reads the number.
            return gr.Textbox(placeholder="by itself", **about)
        return gr.Number(precision=0 if kind is int else None, **about)
    if kind == _TEXTS:
        return gr.Textbox(lines=2, placeholder="one a line", **about)
    return gr.Textbox(**about)


def _label(path: Path) -> str:
    return path[-1].replace("_", " ")


def _kind(field: FieldInfo) -> tuple[Any, bool]:
    """The type of a field without None, and whether it may be None."""
    annotation = field.annotation
    if get_origin(annotation) in (Union, UnionType):
        others = [kind for kind in get_args(annotation) if kind is not type(None)]
        # A number or a word ("auto") is typed as text; the config itself reads it.
        return others[0] if len(others) == 1 else str, len(others) < len(get_args(annotation))
    return annotation, False


def _value(config: RunConfig, path: Path) -> Any:
    value: Any = config
    for name in path:
        value = getattr(value, name)
    return value


def _shown(value: Any, field: FieldInfo) -> Any:
    kind, may_be_none = _kind(field)
    if kind == _TEXTS:
        return "\n".join(value)
    if kind is str or (may_be_none and kind in (int, float)):
        return "" if value is None else str(value)
    return value


def _parsed(value: Any, field: FieldInfo, now: Any) -> Any:
    """The setting for what stands in a component: nothing typed is None where that may be."""
    kind, may_be_none = _kind(field)
    if kind == _TEXTS:
        return [line.strip() for line in re.split(r"\n+", value or "") if line.strip()]
    if isinstance(value, str):
        value = value.strip()
    if value in (None, "") and may_be_none:
        return None
    # The page hands numbers over as JSON does: 1/64 comes back as it was shown.
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return now if value is None and kind is not str else "" if value is None else value

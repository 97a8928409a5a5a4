"""Command-line flags out of RunConfig's fields, with errors of one line.

tyro would construct the pydantic models itself and print pydantic's own report of a wrong value. So it is given
dataclasses of the same shape, which check nothing, and what it parsed is checked as a settings file is.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import tyro
from pydantic import BaseModel

from .run_config import RunConfig, is_expert, parse_config


def to_dataclass(config: BaseModel, *, everyday: bool = False) -> Any:
    """A dataclass instance with the fields, values and explanations of `config`, for tyro to take as defaults.

    everyday: without the settings that help does not show.
    """
    kind = type(config)
    fields: list[Any] = []
    values: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        value = getattr(config, name)
        if everyday and is_expert(field):
            continue
        if isinstance(value, BaseModel):
            value = to_dataclass(value, everyday=everyday)
            fields.append((name, type(value)))
        else:
            settings = [item for item in field.metadata if type(item).__module__.startswith("tyro")]
            help_text = tyro.conf.arg(help=field.description)
            fields.append((name, Annotated[(field.annotation, *(settings or [None]), help_text)]))
        values[name] = value
    flags = dataclasses.make_dataclass(kind.__name__, fields)
    flags.__doc__ = kind.__doc__
    return flags(**values)


def from_dataclass(flags: Any, source: str) -> RunConfig:
    """The RunConfig that parsed flags describe. Raises UserError naming the wrong value; `source` names its place."""
    return parse_config(dataclasses.asdict(flags), source)

"""Validation messages: pydantic's errors as sentences that name the wrong key, what it may be, and what was given."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError

_LONGEST_INPUT = 80


def validation_sentence(error: ValidationError, model: type[BaseModel] | None = None, whole: str = "") -> str:
    """All that is wrong, without a full stop.

    model: what was validated; with it an unknown key comes with the nearest known one, and a key of several types is
    named without its types. whole: what to call the values themselves where the error is about no key of theirs.
    """
    wrong: dict[str, list[Any]] = {}
    for detail in error.errors():
        wrong.setdefault(".".join(_path(detail["loc"], model)) or whole or error.title, []).append(detail)
    return "; ".join(_sentence(key, details, model) for key, details in wrong.items())


def _sentence(key: str, details: list[Any], model: type[BaseModel] | None) -> str:
    """details: the errors of one key, of which one that may be of several types has an error for each."""
    first = details[0]
    if first["type"] == "extra_forbidden":
        return f"unknown key {key}" + (_suggestion(_path(first["loc"], model), model) if model else "")
    if first["type"] == "missing" or (first["type"] == "string_too_short" and first["input"] == ""):
        return f"{key} is missing"
    message = ", or ".join(dict.fromkeys(map(_message, details)))
    return f"{key}: {message}{_given(first)}"


def _message(detail: Any) -> str:
    if detail["type"] == "value_error":  # one of ours, written as it is to be read
        return detail["msg"].removeprefix("Value error, ")
    return detail["msg"][:1].lower() + detail["msg"][1:]


def _given(detail: Any) -> str:
    """What was given, where a person would know it again: not a whole request, nor what our own message names."""
    value = detail["input"]
    if detail["type"] in ("value_error", "json_invalid") or not (value is None or isinstance(value, (str, int, float))):
        return ""
    shown = repr(value)
    return f" (got {shown if len(shown) <= _LONGEST_INPUT else shown[:_LONGEST_INPUT] + '...'})"


def _suggestion(path: list[str], model: Any) -> str:
    for part in path[:-1]:
        model = model.model_fields[part].annotation
    known = list(model.model_fields)
    near = difflib.get_close_matches(path[-1], known, n=1)
    return f", did you mean {near[0]}?" if near else f"; known here: {', '.join(known)}"


def _path(loc: tuple[int | str, ...], model: Any) -> list[str]:
    """Where an error is, without which of a key's types it was measured against, as far as `model` tells."""
    if model is None:
        return list(map(str, loc))
    path: list[str] = []
    for part in loc:
        if isinstance(part, str) and model is None:
            break
        path.append(str(part))
        field = model.model_fields.get(part) if model else None
        model = field.annotation if field and hasattr(field.annotation, "model_fields") else None
    return path

"""Dataset URIs and paths in settings: "dataset:NAME" is a dataset of the workspace, all else a path or a hub id."""

from __future__ import annotations

from pathlib import Path

_SCHEME = "dataset:"


def dataset_named(source: str) -> str | None:
    """NAME where `source` is "dataset:NAME", a dataset of the workspace; None where it is a path."""
    return source.removeprefix(_SCHEME).strip() if source.startswith(_SCHEME) else None


def whole_path(text: str) -> str:
    """An existing path made absolute; anything else (a dataset, a hub id, "tiny", a mistake) as it was typed."""
    if not text or dataset_named(text) is not None:
        return text
    path = Path(text).expanduser()
    return str(path.resolve()) if path.exists() else text

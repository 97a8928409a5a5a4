"""JSON lines: reading a .jsonl file and resolving the image paths in it.

A relative path is taken from the folder of the file and must not leave it: such a set breaks when it is moved, and one
from elsewhere has no business with the files around it. An absolute path is taken as it is, because people list
images that lie all over their own disk; but not in a set that came over the network.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...images.image_file import UnreadFile


def json_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of every line that is not empty. Raises UserError where the file cannot be read."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def parse_line(line: str, texts: tuple[str, ...]) -> dict[str, Any]:
    """The object in a line. texts: what it must hold as text. Raises UserError for anything else."""
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"not a line of JSON ({error})") from None
    if not isinstance(row, dict):
        raise UserError("not a JSON object")
    missing = [name for name in texts if not isinstance(row.get(name), str)]
    if missing:
        raise UserError(f"lacks {', '.join(missing)} (a text each)")
    return row


def named_image(name: str, folder: Path, absolute: bool) -> UnreadFile:
    """The image file that a line names. folder: of the file, resolved; absolute: whether others are taken, see above.

    Raises UserError for one that lies outside.
    """
    path = Path(name)
    if not path.is_absolute() or not absolute:
        path = (folder / path).resolve()
        if not path.is_relative_to(folder):
            raise UserError(f"{name} lies outside the data set's folder; move it inside or give its absolute path")
    return UnreadFile(path, name)

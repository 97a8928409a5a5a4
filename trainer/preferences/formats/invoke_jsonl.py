"""How are judged pairs read from invoke-training's metadata.jsonl?

One JSON object a line: {"image_0": path, "image_1": path, "prompt": text, "prefer_0": true, "prefer_1": false}; numbers
in place of true and false are votes (see `gathering`).

A relative path is taken from the folder of the metadata file and must not leave it: such a set breaks when it is moved,
and one from elsewhere has no business with the files around it. An absolute path is taken as it is, because people list
pictures that lie all over their own disk; but not in a set that came over the network.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import UserError
from ..picture_files import UnreadFile
from .gathering import share, votes
from .rows import SourcePicture, SourceRow, Unusable

NEEDED = ("image_0", "image_1", "prompt")


@dataclass(frozen=True)
class InvokeJsonl:
    """The Reader of one metadata file. absolute: whether paths outside its folder are taken; see above."""

    path: Path
    absolute: bool = True
    layout = "invoke"

    @property
    def source(self) -> str:
        return str(self.path)

    def count(self) -> int:
        return sum(1 for _ in self._lines())

    def rows(self) -> Iterator[SourceRow | Unusable]:
        for number, line in self._lines():
            where = f"{self.path.name} line {number}"
            try:
                yield self._row(_parsed(line), where)
            except (UserError, ValueError) as error:
                yield Unusable(str(error), where)

    @cached_property
    def _folder(self) -> Path:
        return self.path.parent.resolve()

    def _lines(self) -> Iterator[tuple[int, str]]:
        try:
            with self.path.open(encoding="utf-8-sig") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield number, line
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.path} cannot be read: {error}") from error

    def _row(self, row: dict[str, Any], where: str) -> SourceRow:
        scores = row.get("prefer_0"), row.get("prefer_1")
        share_0 = share(*scores)
        pictures = [SourcePicture(self._picture(row[name])) for name in ("image_0", "image_1")]
        return SourceRow(row["prompt"], pictures[0], pictures[1], share_0, where, votes(*scores))

    def _picture(self, name: str) -> UnreadFile:
        folder, path = self._folder, Path(name)
        if not path.is_absolute() or not self.absolute:
            path = (folder / path).resolve()
            if not path.is_relative_to(folder):
                raise UserError(f"{name} lies outside the data set's folder; move it inside or give its absolute path")
        return UnreadFile(path, name)


def _parsed(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"not a line of JSON ({error})") from None
    if not isinstance(row, dict):
        raise UserError("not a JSON object")
    missing = [name for name in NEEDED if not isinstance(row.get(name), str)]
    if missing:
        raise UserError(f"lacks {', '.join(missing)} (a text each)")
    return row

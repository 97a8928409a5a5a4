"""invoke-training's metadata.jsonl: reading judged pairs.

One JSON object a line: {"image_0": path, "image_1": path, "prompt": text, "prefer_0": true, "prefer_1": false}; numbers
in place of true and false are votes (see `aggregate`). If there, "rejected_prompt" is the own caption of the picture
that is not preferred, and "assumed" true says that nobody compared the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import UserError
from .aggregate import share, votes
from .jsonl import json_lines, named_image, parse_line
from .records import SourceImage, SourceRow, Unusable

NEEDED = ("image_0", "image_1", "prompt")


@dataclass(frozen=True)
class InvokeJsonl:
    """The Reader of one metadata file. absolute: whether paths outside its folder are taken, see jsonl.py."""

    path: Path
    absolute: bool = True
    layout = "invoke"

    @property
    def source(self) -> str:
        return str(self.path)

    def count(self) -> int:
        return sum(1 for _ in json_lines(self.path))

    def rows(self) -> Iterator[SourceRow | Unusable]:
        for number, line in json_lines(self.path):
            where = f"{self.path.name} line {number}"
            try:
                yield self._row(parse_line(line, NEEDED), where)
            except (UserError, ValueError) as error:
                yield Unusable(str(error), where)

    @cached_property
    def _folder(self) -> Path:
        return self.path.parent.resolve()

    def _row(self, row: dict[str, Any], where: str) -> SourceRow:
        scores = row.get("prefer_0"), row.get("prefer_1")
        share_0 = share(*scores)
        images = [SourceImage(named_image(row[name], self._folder, self.absolute)) for name in ("image_0", "image_1")]
        own = row.get("rejected_prompt")
        if own is not None and not isinstance(own, str):
            raise UserError("its rejected_prompt is no text")
        return SourceRow(
            row["prompt"],
            images[0],
            images[1],
            share_0,
            where,
            votes(*scores),
            rejected_prompt=own,
            assumed=row.get("assumed") is True,
        )

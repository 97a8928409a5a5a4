"""How are judged pairs read from invoke-training's metadata.jsonl?

One JSON object a line: {"image_0": path, "image_1": path, "prompt": text, "prefer_0": true, "prefer_1": false}; numbers
in place of true and false are votes (see `gathering`).

A relative path is taken from the folder of the metadata file and must not leave it: such a set breaks when it is moved,
and one from elsewhere has no business with the files around it. An absolute path is taken as it is: people list
pictures that lie all over their own disk.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import UserError
from ..pairs import PairSet
from ..picture_files import PictureFile
from .gathering import UNLABELLED, Gathering, share

NEEDED = ("image_0", "image_1", "prompt")


class InvokeJsonl:
    """A PairSource of one metadata file. bad: see `Gathering`."""

    def __init__(self, path: Path, bad: str = "stop"):
        self.path = path
        self.bad = bad

    def load(self) -> PairSet:
        gathering = Gathering(self.bad)
        try:
            text = self.path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.path} cannot be read: {error}") from error
        for number, line in enumerate(text.splitlines(), start=1):
            where = f"{self.path.name} line {number}"
            if not line.strip():
                continue
            try:
                self._gather(_row(line), where, gathering)
            except (UserError, ValueError) as error:
                gathering.broken(str(error), where)
        return gathering.pairs(str(self.path))

    def _gather(self, row: dict[str, Any], where: str, gathering: Gathering) -> None:
        share_0 = share(row.get("prefer_0"), row.get("prefer_1"))
        if share_0 is None:
            return gathering.leave_out(UNLABELLED, where)
        pictures = [self._picture(row[name]) for name in ("image_0", "image_1")]
        return gathering.judged(row["prompt"], pictures[0], pictures[1], share_0, where)

    def _picture(self, name: str) -> PictureFile:
        folder = self.path.parent.resolve()
        path = Path(name)
        if not path.is_absolute():
            path = (folder / path).resolve()
            if not path.is_relative_to(folder):
                raise UserError(f"{name} lies outside the data set's folder; move it inside or give its absolute path")
        return PictureFile.at(path, name)


def _row(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"not a line of JSON ({error})") from None
    if not isinstance(row, dict):
        raise UserError("not a JSON object")
    missing = [name for name in NEEDED if not isinstance(row.get(name), str)]
    if missing:
        raise UserError(f"lacks {', '.join(missing)} (a text each)")
    return row

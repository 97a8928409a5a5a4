"""ranking.jsonl: reading ranked images as pairs.

One JSON object a line: {"prompt": text, "ranking": ["best.png", ["second.png", "as-good.png"], "worst.png"]}. The best
is first; images that were ranked equal are a list of their own. Any two images of different places are a pair.
Of k images each pair weighs 2 / k: k (k - 1) / 2 of them tell what k - 1 comparisons do.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError
from .jsonl import json_lines, named_image, parse_line
from .records import SourceImage, SourceRow, Unusable

FILE = "ranking.jsonl"


@dataclass(frozen=True)
class RankedJsonl:
    """The Reader of one file of rankings. absolute: whether paths outside its folder are taken, see jsonl.py."""

    path: Path
    absolute: bool = True
    layout = "ranked"

    @property
    def source(self) -> str:
        return str(self.path)

    def count(self) -> None:
        return None

    def rows(self) -> Iterator[SourceRow | Unusable]:
        repeats: Counter[str] = Counter()
        for number, line in json_lines(self.path):
            where = f"{self.path.name} line {number}"
            try:
                row = parse_line(line, ("prompt",))
                tiers = _tiers(row.get("ranking"))
                # By its content, so that it is the same one wherever the file lies; two people may rank alike.
                name = json.dumps([row["prompt"], tiers])
                repeats[name] += 1
                yield from self._pairs(row["prompt"], tiers, f"{name} {repeats[name]}", where)
            except UserError as error:
                yield Unusable(str(error), where)

    def _pairs(self, prompt: str, tiers: list[list[str]], ranking: str, where: str) -> Iterator[SourceRow]:
        folder = self.path.parent.resolve()
        names = [name for tier in tiers for name in tier]
        images = {name: SourceImage(named_image(name, folder, self.absolute)) for name in names}
        for above, below in itertools.combinations(tiers, 2):
            for better, worse in itertools.product(above, below):
                two = images[better], images[worse]
                yield SourceRow(prompt, *two, 1.0, where, weight=2 / len(names), ranking=ranking)


def _tiers(ranking: Any) -> list[list[str]]:
    tiers = [[tier] if isinstance(tier, str) else tier for tier in ranking] if isinstance(ranking, list) else []
    names = [name for tier in tiers if isinstance(tier, list) for name in tier]
    if not all(isinstance(tier, list) and tier for tier in tiers) or not all(isinstance(name, str) for name in names):
        raise UserError("its ranking holds something else than names of pictures and lists of such")
    if len(tiers) < 2:
        raise UserError("lacks a ranking: a list of two pictures at least, the best first")
    if len(set(names)) < len(names):
        raise UserError("a picture is in its ranking twice")
    return tiers

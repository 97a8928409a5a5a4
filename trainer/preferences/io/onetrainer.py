"""OneTrainer folders: reading judged pairs, in which file names tell the chosen image.

    cats/001_chosen.png      matched by the chosen pattern     {}_chosen.png
    cats/001_rejected.png    matched by the rejected pattern   {}_rejected.png
    cats/001_chosen.txt, 001_rejected.txt or 001.txt           the prompt; one is enough

A pattern has one {}: what both images of a pair have in common. It is matched against the path below the folder, so
{} may take in subfolders; without an ending, any image file's will do. What both patterns match belongs to the one
that says more: `{}.png` and `{}_rejected.png` go together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError
from ...images.image_file import UnreadFile
from .captions import IMAGE_ENDINGS, common_prompt, images_below, own_captions
from .records import SourceImage, SourceRow, Unusable

CHOSEN, REJECTED = "{}_chosen", "{}_rejected"
_SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class OneTrainerFolder:
    """The Reader of one folder. Raises UserError for a pattern that cannot work."""

    path: Path
    chosen_pattern: str = CHOSEN
    rejected_pattern: str = REJECTED
    own_captions: bool = False
    """Whether the caption of a rejected picture may say something else than the chosen one's."""
    layout = "onetrainer"

    def __post_init__(self) -> None:
        for side, pattern in zip(_SIDES, self._patterns, strict=True):
            if pattern.count("{}") != 1:
                raise UserError(f"the {side} pattern {pattern!r} needs exactly one {{}}, for the pair's name")
        if self.chosen_pattern == self.rejected_pattern:
            raise UserError(f"the chosen and the rejected pattern are both {self.chosen_pattern!r}")

    @property
    def _patterns(self) -> tuple[str, str]:
        return self.chosen_pattern, self.rejected_pattern

    @property
    def source(self) -> str:
        return str(self.path)

    def count(self) -> None:
        return None

    def rows(self) -> Iterator[SourceRow | Unusable]:
        sides: tuple[dict[str, list[Path]], dict[str, list[Path]]] = ({}, {})
        for path in images_below(self.path):
            side, name = self._matched(path)
            if side is None:
                yield Unusable("its name matches neither pattern", self._shown(path), broken=False)
            else:
                sides[side].setdefault(name, []).append(path)
        for name in sorted({*sides[0], *sides[1]}):
            try:
                paths = [self._only(sides[side].get(name, []), side) for side in (0, 1)]
                both, rejected_prompt = self.path / f"{name}.png", None
                if self.own_captions:
                    prompt, rejected_prompt = own_captions([paths[0], both], paths[1])
                else:
                    prompt = common_prompt([*paths, both])
            except UserError as error:
                yield Unusable(str(error), name)
                continue
            chosen, rejected = (SourceImage(UnreadFile(path, self._shown(path))) for path in paths)
            yield SourceRow(prompt, chosen, rejected, 1.0, name, rejected_prompt=rejected_prompt)

    def any_pair(self) -> bool:
        """Whether something lies here that each of the patterns matches."""
        seen = set()
        for path in images_below(self.path):
            seen.add(self._matched(path)[0])
            if {0, 1} <= seen:
                return True
        return False

    def _matched(self, path: Path) -> tuple[int | None, str]:
        below = path.relative_to(self.path).as_posix()
        for side in sorted((0, 1), key=lambda side: -len(self._patterns[side])):
            if found := _expression(self._patterns[side]).fullmatch(below):
                return side, found[1]
        return None, ""

    def _only(self, paths: list[Path], side: int) -> Path:
        if not paths:
            raise UserError(f"no {_SIDES[side]} picture ({self._patterns[side]})")
        if len(paths) > 1:
            raise UserError(f"several {_SIDES[side]} pictures: {', '.join(path.name for path in paths)}")
        return paths[0]

    def _shown(self, path: Path) -> str:
        return path.relative_to(self.path.parent).as_posix()


def _expression(pattern: str) -> re.Pattern[str]:
    before, after = map(re.escape, pattern.split("{}"))
    if not pattern.lower().endswith(IMAGE_ENDINGS):
        after += r"\.[^./]+"
    return re.compile(f"{before}(.+){after}")

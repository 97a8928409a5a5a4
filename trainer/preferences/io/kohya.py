"""kohya's preference folders: reading judged pairs.

    set/1_name/w/x.png     the chosen image        set/1_name/w/x.caption or x.txt    its prompt
    set/1_name/l/x.png     the rejected one        set/1_name/l/x.caption or x.txt    the same prompt

Images belong together by name, whatever their extensions. The number before the underscore is kohya's repeat count:
it becomes the pair's weight. A prompt beside only one of the two is the prompt of both; two that differ are an error,
unless each image may have a caption of its own (`own_captions`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError
from ...images.image_file import UnreadFile
from .captions import common_prompt, is_image, own_captions
from .records import SourceImage, SourceRow, Unusable

_REPEATS = re.compile(r"(\d{1,9})_")


@dataclass(frozen=True)
class KohyaFolders:
    """The Reader of a folder of `<repeats>_<name>` folders, or of one such folder. own_captions: whether a rejected
    image may have one."""

    path: Path
    own_captions: bool = False
    layout = "kohya"

    @property
    def source(self) -> str:
        return str(self.path)

    def count(self) -> int:
        return sum(len(_images_by_name(folder / "w")) for folder in concept_folders(self.path))

    def rows(self) -> Iterator[SourceRow | Unusable]:
        folders = concept_folders(self.path)
        weights = [_weight(folder) for folder in folders]
        for folder, weight in zip(folders, weights, strict=True):
            yield from _rows(folder, folder.relative_to(self.path.parent), weight, self.own_captions)


def concept_folders(path: Path) -> list[Path]:
    """`path` itself if it holds w and l, otherwise its subfolders that do, in the order of names."""
    return [folder for folder in (path, *sorted(path.iterdir())) if (folder / "w").is_dir() and (folder / "l").is_dir()]


def _rows(folder: Path, shown_as: Path, weight: float, own: bool) -> Iterator[SourceRow | Unusable]:
    sides = [_images_by_name(folder / side) for side in ("w", "l")]
    for name in sorted({*sides[0], *sides[1]}):
        where = f"{shown_as.as_posix()}/*/{name}"
        try:
            paths = [_only(side.get(name, []), letter) for side, letter in zip(sides, "wl", strict=True)]
            prompt, rejected_prompt = own_captions(paths[:1], paths[1]) if own else (common_prompt(paths), None)
        except UserError as error:
            yield Unusable(str(error), where)
            continue
        chosen, rejected = (
            SourceImage(UnreadFile(path, (shown_as / path.relative_to(folder)).as_posix())) for path in paths
        )
        yield SourceRow(prompt, chosen, rejected, 1.0, where, weight=weight, rejected_prompt=rejected_prompt)


def _weight(folder: Path) -> float:
    found = _REPEATS.match(folder.name)
    if not found:
        return 1.0
    if int(found[1]) == 0:
        raise UserError(f"{folder} has 0 repeats, which would train on nothing; rename or remove it")
    return float(found[1])


def _images_by_name(side: Path) -> dict[str, list[Path]]:
    by_name: dict[str, list[Path]] = {}
    for path in sorted(side.iterdir()):
        if is_image(path):
            by_name.setdefault(path.stem, []).append(path)
    return by_name


def _only(paths: list[Path], side: str) -> Path:
    if not paths:
        raise UserError(f"no picture of this name in {side}/")
    if len(paths) > 1:
        raise UserError(f"several pictures of this name in {side}/: {', '.join(path.name for path in paths)}")
    return paths[0]

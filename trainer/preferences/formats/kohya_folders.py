"""How are judged pairs read from kohya's preference folders?

    set/1_name/w/x.png     the chosen picture      set/1_name/w/x.caption or x.txt    its prompt
    set/1_name/l/x.png     the rejected one        set/1_name/l/x.caption or x.txt    the same prompt

Pictures belong together by name, whatever their extensions. The number before the underscore is kohya's repeat count:
it becomes the pair's weight. A prompt beside only one of the two is the prompt of both; two that differ are an error,
because the objectives compare the pictures under one prompt.
"""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import UserError
from ..pairs import PairSet
from ..picture_files import PictureFile
from .gathering import Gathering

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
CAPTION_ENDINGS = (".caption", ".txt")
_REPEATS = re.compile(r"(\d+)_")


class KohyaFolders:
    """A PairSource of a folder of `<repeats>_<name>` folders, or of one such folder. bad: see `Gathering`."""

    def __init__(self, path: Path, bad: str = "stop"):
        self.path = path
        self.bad = bad

    def load(self) -> PairSet:
        gathering = Gathering(self.bad)
        for folder in concept_folders(self.path):
            _gather(folder, folder.relative_to(self.path.parent), gathering)
        return gathering.pairs(str(self.path))


def concept_folders(path: Path) -> list[Path]:
    """`path` itself if it holds w and l, otherwise its subfolders that do, in the order of names."""
    return [folder for folder in (path, *sorted(path.iterdir())) if (folder / "w").is_dir() and (folder / "l").is_dir()]


def _gather(folder: Path, shown_as: Path, gathering: Gathering) -> None:
    weight = _weight(folder)
    sides = [_pictures(folder / side) for side in ("w", "l")]
    for name in sorted({*sides[0], *sides[1]}):
        where = f"{shown_as.as_posix()}/*/{name}"
        try:
            paths = [_only(side.get(name, []), letter) for side, letter in zip(sides, "wl", strict=True)]
            prompt = _prompt(paths)
            chosen, rejected = (
                PictureFile.at(path, (shown_as / path.relative_to(folder)).as_posix()) for path in paths
            )
        except UserError as error:
            gathering.broken(str(error), where)
            continue
        gathering.judged(prompt, chosen, rejected, 1.0, where, weight)


def _weight(folder: Path) -> float:
    found = _REPEATS.match(folder.name)
    if not found:
        return 1.0
    if int(found[1]) == 0:
        raise UserError(f"{folder} has 0 repeats, which would train on nothing; rename or remove it")
    return float(found[1])


def _pictures(side: Path) -> dict[str, list[Path]]:
    by_name: dict[str, list[Path]] = {}
    for path in sorted(side.iterdir()):
        if path.suffix.lower() in PICTURE_ENDINGS:
            by_name.setdefault(path.stem, []).append(path)
    return by_name


def _only(paths: list[Path], side: str) -> Path:
    if not paths:
        raise UserError(f"no picture of this name in {side}/")
    if len(paths) > 1:
        raise UserError(f"several pictures of this name in {side}/: {', '.join(path.name for path in paths)}")
    return paths[0]


def _prompt(paths: list[Path]) -> str:
    captions = [caption for caption in map(_caption, paths) if caption is not None]
    if not captions:
        raise UserError(f"no caption beside either picture ({' or '.join(CAPTION_ENDINGS)})")
    if len({" ".join(caption.split()) for caption in captions}) > 1:
        raise UserError("the captions of the two pictures differ; they need the same prompt")
    return captions[0]


def _caption(picture: Path) -> str | None:
    for ending in CAPTION_ENDINGS:
        path = picture.with_suffix(ending)
        try:
            return path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path.name} cannot be read: {error}") from error
    return None

"""Which layout are the judged pairs at a path in?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...errors import UserError
from ..pairs import PairSource
from .gathering import BAD_CHOICES
from .invoke_jsonl import InvokeJsonl
from .kohya_folders import PICTURE_ENDINGS, KohyaFolders, concept_folders
from .pick_a_pic import PickAPic

_KNOWN = (
    "known are a Pick-a-Pic .parquet file or a folder of them, a folder with metadata.jsonl (image_0, image_1, prompt, "
    "prefer_0, prefer_1), and kohya folders (1_name/w/x.png with 1_name/l/x.png)"
)


def open_pairs(path: str | Path, bad: str = "stop") -> PairSource:
    """The source of judged pairs at a file or folder, by what lies there; nothing is read yet.

    bad: "stop" (load() raises one UserError that lists the broken pairs) or "skip" (they are left out and listed).
    Raises UserError if nothing is there, if it is in no known layout, or in more than one.
    """
    path = Path(path).expanduser()
    if bad not in BAD_CHOICES:
        raise UserError(f"broken pairs can be met with {' or '.join(BAD_CHOICES)}, not with {bad!r}")
    if path.is_file():
        return _file(path, bad)
    if not path.is_dir():
        raise UserError(f"{path} does not exist; give a file or folder of judged pairs")
    found: list[tuple[str, Callable[[], PairSource]]] = []
    if (path / "metadata.jsonl").is_file():
        found.append(("metadata.jsonl", lambda: InvokeJsonl(path / "metadata.jsonl", bad)))
    if next(path.rglob("*.parquet"), None):
        found.append(("*.parquet", lambda: PickAPic(path, bad)))
    if concept_folders(path):
        found.append(("folders w and l", lambda: KohyaFolders(path, bad)))
    if len(found) > 1:
        raise UserError(
            f"{path} holds {' and '.join(what for what, _ in found)}; name the one to read, or move the other"
        )
    if not found:
        raise UserError(f"{path} is no data set of judged pairs: {_what_lies_in(path)}; {_KNOWN}")
    return found[0][1]()


def _file(path: Path, bad: str) -> PairSource:
    ending = path.suffix.lower()
    if ending == ".parquet":
        return PickAPic(path, bad)
    if ending == ".jsonl":
        return InvokeJsonl(path, bad)
    raise UserError(f"{path} is in no known layout of judged pairs ({ending or 'no extension'}); {_KNOWN}")


def _what_lies_in(folder: Path) -> str:
    entries = sorted(folder.iterdir())
    if not entries:
        return "it is empty"
    if (folder / "w").is_dir() or (folder / "l").is_dir():
        return "it has only one of the folders w (chosen) and l (rejected)"
    if any(entry.suffix.lower() in PICTURE_ENDINGS for entry in entries):
        return "it holds single pictures, and nothing says which of them were compared"
    shown = ", ".join(entry.name for entry in entries[:5])
    return f"it holds {shown}" + (f" and {len(entries) - 5} more" if len(entries) > 5 else "")

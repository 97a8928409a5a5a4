"""How does what a person drops or points at become something that can be imported?"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...trainer.atomic_files import no_room_explained
from ...trainer.preferences.io.infotext import read_text
from .uploads import PICTURES, is_zip, unpacked

_BESIDE = (".txt", ".caption", ".json", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Brought:
    """Something to import: a file or folder, and how to name it to the person."""

    path: Path
    name: str


@contextmanager
def laid_out(files: Sequence[Path], prompt: str = "") -> Iterator[tuple[list[Brought], list[str]]]:
    """What dropped files hold, ready to be imported, and the names of those of no use here.

    Each zip is unpacked; all other files are laid beside each other, as they lay where they came from, so that
    captions find their pictures. A picture that says nothing of its prompt gets `prompt`, if there is one.
    Raises UserError for a zip that is not safe. All of it is gone afterwards.
    """
    with ExitStack() as kept:
        brought: list[Brought] = []
        single: list[Path] = []
        useless: list[str] = []
        for file in files:
            if is_zip(file):
                brought.append(Brought(kept.enter_context(unpacked(file, file.name)), file.name))
            elif file.suffix.lower() in (*PICTURES, *_BESIDE):
                single.append(file)
            else:
                useless.append(file.name)
        if single:
            folder = kept.enter_context(_beside_each_other(single, prompt))
            brought.append(Brought(folder, "what you dropped"))
        yield brought, useless


@contextmanager
def _beside_each_other(files: Sequence[Path], prompt: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="dropped-", dir=os.environ.get("GRADIO_TEMP_DIR")))
    try:
        with no_room_explained(folder):
            for file in files:
                _link(file, _free(folder / file.name))
            for picture in sorted(folder.iterdir()) if prompt.strip() else ():
                caption = picture.with_suffix(".txt")
                if picture.suffix.lower() in PICTURES and not caption.exists() and not read_text(picture).prompt:
                    caption.write_text(prompt, encoding="utf-8")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free(path: Path) -> Path:
    """Of files with the same name, dropped from several folders, each keeps its own."""
    number, free = 2, path
    while free.exists():
        free = path.with_name(f"{path.stem} ({number}){path.suffix}")
        number += 1
    return free


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)

"""Output folders of A1111 and ComfyUI: which images were generated for the same prompt?

The prompt stands in a .txt of the same name, as A1111 writes it on demand and as people put it there, or else in the
image itself (see `infotext`). Nobody has judged them yet, so these are no pairs to train on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError
from ...images.image_file import UnreadFile
from .captions import images_below, read_caption
from .infotext import from_parameters, read_infotext
from .records import SourceGroup, SourceImage, Unusable

NO_PROMPT = "nothing in it or beside it (.txt) says which prompt it was painted for"


@dataclass(frozen=True)
class OutputFolders:
    """The Reader of a folder of single pictures and its subfolders."""

    path: Path
    layout = "outputs"

    @property
    def source(self) -> str:
        return str(self.path)

    def count(self) -> int:
        return sum(1 for _ in images_below(self.path))

    def rows(self) -> Iterator[SourceGroup | Unusable]:
        by_prompt: dict[str, list[Path]] = {}
        for path in images_below(self.path):
            shown = path.relative_to(self.path.parent).as_posix()
            if path.name.startswith("grid-"):
                yield Unusable("a grid of pictures that A1111 also saved singly", shown, broken=False)
                continue
            try:
                prompt = _prompt(path)
            except UserError as error:
                yield Unusable(str(error), shown)
                continue
            if prompt:
                by_prompt.setdefault(prompt, []).append(path)
            else:
                yield Unusable(NO_PROMPT, shown, broken=False)
        for prompt, paths in by_prompt.items():
            files = [UnreadFile(path, path.relative_to(self.path.parent).as_posix()) for path in paths]
            yield SourceGroup(prompt, tuple(map(SourceImage, files)), files[0].label)


def _prompt(path: Path) -> str | None:
    beside = read_caption(path, (".txt",))
    return (from_parameters(beside).prompt if beside else None) or read_infotext(path).prompt

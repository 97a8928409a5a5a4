"""Layout detection: in which known layout are the pairs at a path?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ...config.dataset_uri import dataset_named
from ...errors import UserError
from ..pairs import PairSource
from . import onetrainer
from .aggregate import BAD_CHOICES, AggregatedPairs
from .captions import images_below, is_image
from .invoke import InvokeJsonl
from .kohya import KohyaFolders, concept_folders
from .onetrainer import OneTrainerFolder
from .output_folders import OutputFolders
from .parquet_reader import ParquetPairs
from .ranked import FILE as RANKING_FILE
from .ranked import RankedJsonl
from .records import Reader

LAYOUTS = {
    "pick-a-pic": ".parquet with jpg_0, jpg_1, label_0, label_1, caption",
    "binarized": ".parquet with chosen, rejected, prompt",
    "votes": ".parquet with image1, image2, votes_image1, votes_image2, prompt",
    "kohya": "folders w and l, as 1_name/w/x.png with 1_name/l/x.png",
    "onetrainer": "x_chosen.png with x_rejected.png",
    "invoke": "metadata.jsonl with image_0, image_1, prompt, prefer_0, prefer_1",
    "ranked": "ranking.jsonl with prompt, ranking",
    "outputs": "pictures as A1111 and ComfyUI save them, to be judged",
}
_PARQUET = ("pick-a-pic", "binarized", "votes")
_KNOWN = "known are " + "; ".join(f"{name} ({what})" for name, what in LAYOUTS.items())


def open_pairs(
    path: str | Path, bad: str = "stop", workspace: Path | None = None, own_captions: bool = False
) -> PairSource:
    """The source of judged pairs at a file or folder, by what lies there; nothing is read yet.

    path: "dataset:NAME" is the dataset of that name in `workspace`. bad: "stop" (load() raises one UserError that lists
    the broken pairs) or "skip" (they are left out and listed). own_captions: whether, in folders, the caption of the
    rejected image may differ from the chosen one's.
    Raises UserError if nothing is there, if it is in no known layout, or in more than one, or if it is not judged yet.
    """
    if bad not in BAD_CHOICES:
        raise UserError(f"broken pairs can be met with {' or '.join(BAD_CHOICES)}, not with {bad!r}")
    if (name := dataset_named(str(path))) is not None:
        return _dataset(name, workspace)
    reader = find_reader(path, own_captions=own_captions)
    if isinstance(reader, OutputFolders):
        raise UserError(
            f"{path} holds single pictures, and nothing says which of them are better: they must be judged first; "
            "`mapo import` takes them into a dataset and `mapo studio` shows them in pairs"
        )
    return AggregatedPairs(reader, bad)


def find_reader(
    path: str | Path,
    layout: str | None = None,
    chosen_pattern: str | None = None,
    rejected_pattern: str | None = None,
    absolute: bool = True,
    own_captions: bool = False,
) -> Reader:
    """What reads the rows at `path`; nothing is read yet.

    layout: a key of LAYOUTS, or None: by what lies there. The patterns are those of onetrainer.py and go together.
    absolute: whether a metadata.jsonl may name images outside its folder. own_captions: see `open_pairs`. Raises
    UserError as `open_pairs` does.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"{path} does not exist; give a file or folder of judged pairs")
    if layout is not None and layout not in LAYOUTS:
        raise UserError(f"there is no layout {layout!r}; {_KNOWN}")
    if (chosen_pattern is None) != (rejected_pattern is None):
        raise UserError("a chosen and a rejected pattern go together: give both, with one {} each")
    if chosen_pattern is not None and rejected_pattern is not None:
        if layout not in (None, "onetrainer") or not path.is_dir():
            raise UserError("file-name patterns are for a OneTrainer folder only")
        return OneTrainerFolder(path, chosen_pattern, rejected_pattern, own_captions)
    if layout is not None:
        return _reader_of(path, layout, absolute, own_captions)
    return _file(path, absolute) if path.is_file() else _folder(path, absolute, own_captions)


def _reader_of(path: Path, layout: str, absolute: bool, own_captions: bool) -> Reader:
    if layout in _PARQUET:
        return ParquetPairs(path, layout)
    if layout == "invoke":
        return InvokeJsonl(path / "metadata.jsonl" if path.is_dir() else path, absolute)
    if layout == "ranked":
        return RankedJsonl(path / RANKING_FILE if path.is_dir() else path, absolute)
    if not path.is_dir():
        raise UserError(f"{path} is no folder; the layout {layout} is one ({LAYOUTS[layout]})")
    if layout == "kohya" and not concept_folders(path):
        raise UserError(f"{path} is not in the layout kohya ({LAYOUTS[layout]}): {_what_lies_in(path)}")
    kinds: dict[str, Callable[[Path], Reader]] = {
        "kohya": partial(KohyaFolders, own_captions=own_captions),
        "onetrainer": partial(OneTrainerFolder, own_captions=own_captions),
        "outputs": OutputFolders,
    }
    return kinds[layout](path)


def _dataset(name: str, workspace: Path | None) -> PairSource:
    # Here, because pairs in files need no database.
    from ..dataset_pairs import DatasetPairs
    from ..store import open_store

    if workspace is None:
        raise UserError(f"the dataset {name} lies in a workspace: say in which")
    return DatasetPairs(open_store(workspace), name)


def _file(path: Path, absolute: bool) -> Reader:
    ending = path.suffix.lower()
    if ending == ".parquet":
        return ParquetPairs(path)
    if ending == ".jsonl":
        return RankedJsonl(path, absolute) if path.name == RANKING_FILE else InvokeJsonl(path, absolute)
    raise UserError(f"{path} is in no known layout of judged pairs ({ending or 'no extension'}); {_KNOWN}")


def _folder(path: Path, absolute: bool, own_captions: bool = False) -> Reader:
    detected: list[tuple[str, Reader]] = []
    if (path / "metadata.jsonl").is_file():
        detected.append(("metadata.jsonl", InvokeJsonl(path / "metadata.jsonl", absolute)))
    if (path / RANKING_FILE).is_file():
        detected.append((RANKING_FILE, RankedJsonl(path / RANKING_FILE, absolute)))
    if next(path.rglob("*.parquet"), None):
        detected.append(("*.parquet", ParquetPairs(path)))
    if concept_folders(path):
        detected.append(("folders w and l", KohyaFolders(path, own_captions)))
    if len(detected) > 1:
        raise UserError(
            f"{path} holds {' and '.join(what for what, _ in detected)}; name the one to read, or move the other"
        )
    if detected:
        return detected[0][1]
    entries = [entry for entry in path.iterdir() if not entry.name.startswith((".", "__MACOSX"))]
    if len(entries) == 1 and entries[0].is_dir() and not _one_sided(path):
        return _folder(entries[0], absolute, own_captions)  # a zip often holds one folder that holds everything
    by_name = OneTrainerFolder(path, onetrainer.CHOSEN, onetrainer.REJECTED, own_captions)
    if by_name.any_pair():
        return by_name
    if next(images_below(path), None) and not _one_sided(path):
        return OutputFolders(path)
    raise UserError(f"{path} is no data set of judged pairs: {_what_lies_in(path)}; {_KNOWN}")


def _one_sided(folder: Path) -> bool:
    return (folder / "w").is_dir() or (folder / "l").is_dir()


def _what_lies_in(folder: Path) -> str:
    entries = sorted(folder.iterdir())
    if not entries:
        return "it is empty"
    if _one_sided(folder):
        return "it has only one of the folders w (chosen) and l (rejected)"
    if any(map(is_image, entries)):
        return "it holds single pictures, and nothing says which of them were compared"
    shown = ", ".join(entry.name for entry in entries[:5])
    return f"it holds {shown}" + (f" and {len(entries) - 5} more" if len(entries) > 5 else "")

"""Parquet: reading judged pairs from one file or a folder of shards. A file's layout is told by its columns:

- pick-a-pic: jpg_0, jpg_1, label_0, label_1, caption; if there, has_label, are_different, model_0, model_1, user_id
- binarized: chosen, rejected, prompt
- votes: image1, image2, votes_image1, votes_image2, prompt; if there, model1, model2

Images are the image files' bytes, or structs with `bytes`. Labels are numbers: 1/0, 0.7/0.3, 0.5/0.5 for a tie. A
row with has_label false is not judged, one with are_different false is left out. If there, rejected_prompt is the own
caption of the image that is not preferred. Other columns are not read; Pick-a-Pic's best_image_uid repeats the labels.

Of a folder every *.parquet below it is read, in the order of names. If there are shards called train-*, only those are:
a data set's own test and validation pairs stay out of training, and are counted. A file may be larger than the memory.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...images.decode import image_size
from ...images.image_ref import verify_unchanged
from .aggregate import UNLABELLED, share
from .records import SourceImage, SourceRow, Unusable

SAME_TWICE = "marked as showing the same picture twice (are_different is false)"
OWN_CAPTION = "rejected_prompt"
NOT_TRAINING = "not a train-* shard of the data set"
_ROWS_PER_BATCH = 8
_MAX_BATCHES = 4


@dataclass(frozen=True)
class Columns:
    """The columns of a layout. judged: a row's (share of the first picture or None, votes); may raise ValueError."""

    images: tuple[str, str]
    scores: tuple[str, ...]
    prompt: str
    judged: Callable[[dict[str, Any]], tuple[float | None, float]]
    models: tuple[str, str] | None = None
    annotator: str | None = None
    others: tuple[str, ...] = ()

    @property
    def needed(self) -> tuple[str, ...]:
        return (*self.images, *self.scores, self.prompt)

    @property
    def optional(self) -> tuple[str, ...]:
        return (*(self.models or ()), *self.others, *((self.annotator,) if self.annotator else ()), OWN_CAPTION)


def _labelled(row: dict[str, Any]) -> tuple[float | None, float]:
    share_0 = share(row["label_0"], row["label_1"])
    return None if row.get("has_label") is False else share_0, 1.0


def _voted(row: dict[str, Any]) -> tuple[float | None, float]:
    counts = row["votes_image1"], row["votes_image2"]
    share_0 = share(*counts)
    total = 0.0 if share_0 is None else float(sum(counts))
    return (share_0, total) if total else (None, 1.0)


LAYOUTS = {
    "pick-a-pic": Columns(
        ("jpg_0", "jpg_1"),
        ("label_0", "label_1"),
        "caption",
        _labelled,
        models=("model_0", "model_1"),
        annotator="user_id",
        others=("has_label", "are_different"),
    ),
    "binarized": Columns(("chosen", "rejected"), (), "prompt", lambda row: (1.0, 1.0)),
    "votes": Columns(
        ("image1", "image2"), ("votes_image1", "votes_image2"), "prompt", _voted, models=("model1", "model2")
    ),
}


@dataclass(frozen=True)
class ParquetPairs:
    """The Reader of one parquet file or a folder of shards. forced_layout: a key of LAYOUTS; None: by each file's
    columns."""

    path: Path
    forced_layout: str | None = None

    @property
    def layout(self) -> str:
        return self.forced_layout or "parquet"

    @property
    def source(self) -> str:
        return str(self.path)

    def count(self) -> int:
        return sum(_rows_in(file) for file in self._files())

    def rows(self) -> Iterator[SourceRow | Unusable]:
        files = self._files()
        training = {file for file in files if file.name.startswith("train-")} or set(files)
        for file in files:
            name = file.relative_to(self.path).as_posix() if file != self.path else file.name
            if file in training:
                yield from _rows(file, name, self.forced_layout)
            else:
                for row in range(_rows_in(file)):
                    yield Unusable(NOT_TRAINING, f"{name} row {row}", broken=False)

    def _files(self) -> list[Path]:
        return [self.path] if self.path.is_file() else sorted(self.path.rglob("*.parquet"))


def _rows_in(file: Path) -> int:
    """From the file's footer alone."""
    with open_parquet(file) as parquet:
        return parquet.metadata.num_rows


def _rows(file: Path, name: str, forced_layout: str | None) -> Iterator[SourceRow | Unusable]:
    with open_parquet(file) as parquet:
        there = list(parquet.schema_arrow.names)
    columns = LAYOUTS[forced_layout or _likeliest_layout(file, there)]
    missing = [column for column in columns.needed if column not in there]
    if missing:
        raise UserError(f"{file} lacks the columns {', '.join(missing)} (it has: {', '.join(there)})")
    selected = [*columns.needed, *(column for column in columns.optional if column in there)]
    shard = Shard(file, columns.images)
    for number, (group, row, values) in enumerate(shard.rows(selected)):
        where = f"{name} row {number}"
        try:
            yield _row(shard, group, row, values, columns, where)
        except (UserError, ValueError) as error:
            yield Unusable(str(error), where)


def _likeliest_layout(file: Path, there: list[str]) -> str:
    """The layout of which the most columns are there: what is missing of it is then named."""
    shares = {name: sum(one in there for one in kind.needed) / len(kind.needed) for name, kind in LAYOUTS.items()}
    best = max(shares, key=shares.__getitem__)
    if shares[best] < 0.5:
        known = "; ".join(f"{name} ({', '.join(kind.needed)})" for name, kind in LAYOUTS.items())
        raise UserError(f"{file} is in no known layout of judged pairs: it has the columns {', '.join(there)}; {known}")
    return best


def _row(
    shard: Shard, group: int, row: int, values: dict[str, Any], columns: Columns, where: str
) -> SourceRow | Unusable:
    share_0, votes = columns.judged(values)
    if values.get("are_different") is False and share_0 is not None:
        return Unusable(SAME_TWICE, where, broken=False)
    models = [values.get(name) for name in columns.models or ("", "")]
    images = []
    for column, model in zip(columns.images, models, strict=True):
        label = f"{where}, {column}"
        data = _image_bytes(values[column])
        if data is None:
            # Without a judgement the row is left out for that, as it always was.
            if share_0 is None:
                return Unusable(UNLABELLED, where, broken=False)
            raise UserError(f"{column} holds no picture")
        if not isinstance(data, bytes):
            raise UserError(f"{column} holds {type(data).__name__}, not a picture file's bytes")
        at = UnreadCell(shard, group, row, column, label, data)
        images.append(SourceImage(at, str(model) if model is not None else None))
    annotator = values.get(columns.annotator) if columns.annotator else None
    return SourceRow(
        str(values[columns.prompt] or ""),
        images[0],
        images[1],
        share_0,
        where,
        votes,
        annotator=None if annotator is None else str(annotator),
        rejected_prompt=str(values[OWN_CAPTION]) if values.get(OWN_CAPTION) else None,
    )


@dataclass(frozen=True)
class ParquetCell:
    """A ImageRef to one cell of a parquet file. row: within its row group."""

    shard: Shard = field(repr=False)
    row_group: int
    row: int
    column: str
    label: str
    sha256: str
    size: tuple[int, int]

    def read(self) -> bytes:
        data = self.shard.cell(self.row_group, self.row, self.column)
        return verify_unchanged(data or b"", self)


@dataclass(frozen=True)
class UnreadCell:
    """An image whose row was just read: it holds the bytes until it is dropped. `ref` is the ParquetCell there."""

    shard: Shard = field(repr=False)
    row_group: int
    row: int
    column: str
    label: str
    data: bytes = field(repr=False)

    def read(self) -> bytes:
        return self.data

    def ref(self) -> ParquetCell:
        size = image_size(self.data, self.label)
        digest = hashlib.sha256(self.data).hexdigest()
        return ParquetCell(self.shard, self.row_group, self.row, self.column, self.label, digest, size)


class Shard:
    """One parquet file, read a few rows at a time. Safe to share between threads.

    images: the columns that `cell` reads. Cells are cheap to read in ascending order, give or take a few rows, as the
    encoder does; going back means reading the row group again from its start, because parquet cannot jump to a row.
    Memory: a few rows, or one page of each column where the writer made its pages larger than that.
    """

    def __init__(self, path: Path, images: Sequence[str]):
        self.path = path
        self._images = list(images)
        self._lock = threading.Lock()
        self._row_group = -1
        self._batches: Iterator[list[dict[str, Any]]] = iter(())
        self._next_row = 0
        self._cached: dict[int, list[dict[str, Any]]] = {}

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """(row group, row within it, the row's values in `columns`), the whole file through."""
        with open_parquet(self.path) as file:
            for group in range(file.num_row_groups):
                row = 0
                for batch in file.iter_batches(_ROWS_PER_BATCH, row_groups=[group], columns=list(columns)):
                    for values in batch.to_pylist():
                        yield group, row, values
                        row += 1

    def cell(self, row_group: int, row: int, column: str) -> bytes | None:
        """The image's bytes in a cell; None if there is none (any more). Raises UserError if it cannot be read."""
        with self._lock:
            start = row // _ROWS_PER_BATCH * _ROWS_PER_BATCH
            if row_group != self._row_group or (start not in self._cached and start < self._next_row):
                self._row_group, self._next_row, self._cached = row_group, 0, {}
                self._batches = self._image_batches(row_group)
            while start not in self._cached:
                batch = next(self._batches, None)
                if batch is None:
                    return None
                self._cached[self._next_row] = batch
                self._next_row += _ROWS_PER_BATCH
                while len(self._cached) > _MAX_BATCHES:
                    del self._cached[min(self._cached)]
            batch = self._cached[start]
            return _image_bytes(batch[row - start][column]) if row - start < len(batch) else None

    def _image_batches(self, row_group: int) -> Iterator[list[dict[str, Any]]]:
        with open_parquet(self.path) as file:
            for batch in file.iter_batches(_ROWS_PER_BATCH, row_groups=[row_group], columns=self._images):
                yield batch.to_pylist()


@contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """A pyarrow.parquet.ParquetFile. Raises UserError naming the file where it, or what is read of it, is damaged."""
    import pyarrow
    import pyarrow.parquet

    try:
        # A buffer, and no reading ahead: otherwise pyarrow holds whole column chunks, all images of a row group.
        with pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as parquet: {error}") from error


def _image_bytes(cell: Any) -> bytes | None:
    """The value of an image cell: bytes, or the struct {bytes, path} that the datasets library writes."""
    return cell.get("bytes") if isinstance(cell, dict) else cell

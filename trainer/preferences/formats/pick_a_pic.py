"""How are judged pairs read from Pick-a-Pic's parquet layout (one file, or a folder of shards)?

Needed columns: jpg_0 and jpg_1 (the picture files' bytes, or structs with `bytes`), label_0 and label_1 (numbers: 1/0,
0.7/0.3, 0.5/0.5 for a tie), caption. Read if there: has_label and are_different (false: the row is left out and
counted). Other columns are not touched; best_image_uid says what the labels say.

Of a folder every *.parquet below it is read, in the order of names. If there are shards called train-*, only those are:
a data set's own test and validation pairs stay out of training, and are counted.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...pictures import measure
from ..pairs import PairSet
from ..picture_files import as_judged
from .gathering import UNLABELLED, Gathering, share

PICTURES = ("jpg_0", "jpg_1")
NEEDED = (*PICTURES, "label_0", "label_1", "caption")
OPTIONAL = ("has_label", "are_different")
_ROWS_AT_ONCE = 8
_BATCHES_KEPT = 4


@dataclass(frozen=True)
class ParquetCell:
    """A PictureRef to one cell of a parquet file. row: within its row group."""

    shard: Shard = field(repr=False)
    row_group: int
    row: int
    column: str
    label: str
    sha256: str
    size: tuple[int, int]

    def read(self) -> bytes:
        data = self.shard.cell(self.row_group, self.row, self.column)
        return as_judged(data or b"", self)


class Shard:
    """One parquet file, read a few rows at a time. Safe to share between threads.

    Cells are cheap to read in ascending order, give or take a few rows, as the encoder does; going back means reading
    the row group again from its start, because parquet cannot jump to a row. Memory: a few rows, or one page of each
    column where the writer made its pages larger than that.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        self._row_group = -1
        self._batches: Iterator[list[dict[str, Any]]] = iter(())
        self._next_row = 0
        self._kept: dict[int, list[dict[str, Any]]] = {}

    def rows(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """(row group, row within it, the row's needed and optional columns), the whole file through."""
        with self._open() as file:
            missing = [name for name in NEEDED if name not in file.schema_arrow.names]
            if missing:
                there = ", ".join(file.schema_arrow.names)
                raise UserError(f"{self.path} lacks the columns {', '.join(missing)} (it has: {there})")
            columns = [*NEEDED, *(name for name in OPTIONAL if name in file.schema_arrow.names)]
            for group in range(file.num_row_groups):
                row = 0
                for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=columns):
                    for values in batch.to_pylist():
                        yield group, row, values
                        row += 1

    def count(self) -> int:
        """How many rows there are, from the file's end matter alone."""
        with self._open() as file:
            return file.metadata.num_rows

    def cell(self, row_group: int, row: int, column: str) -> bytes | None:
        """The picture's bytes in a cell; None if there is none (any more). Raises UserError if it cannot be read."""
        with self._lock:
            start = row // _ROWS_AT_ONCE * _ROWS_AT_ONCE
            if row_group != self._row_group or (start not in self._kept and start < self._next_row):
                self._row_group, self._next_row, self._kept = row_group, 0, {}
                self._batches = self._pictures_of(row_group)
            while start not in self._kept:
                batch = next(self._batches, None)
                if batch is None:
                    return None
                self._kept[self._next_row] = batch
                self._next_row += _ROWS_AT_ONCE
                while len(self._kept) > _BATCHES_KEPT:
                    del self._kept[min(self._kept)]
            batch = self._kept[start]
            return picture_bytes(batch[row - start][column]) if row - start < len(batch) else None

    def _pictures_of(self, row_group: int) -> Iterator[list[dict[str, Any]]]:
        with self._open() as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[row_group], columns=list(PICTURES)):
                yield batch.to_pylist()

    @contextmanager
    def _open(self) -> Iterator[Any]:
        import pyarrow
        import pyarrow.parquet

        try:
            # A buffer, and no reading ahead: otherwise pyarrow holds whole column chunks, a row group's every picture.
            with pyarrow.parquet.ParquetFile(self.path, buffer_size=1 << 20, pre_buffer=False) as file:
                yield file
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{self.path} cannot be read as parquet: {error}") from error


class PickAPic:
    """A PairSource of one parquet file or a folder of shards. bad: see `Gathering`."""

    def __init__(self, path: Path, bad: str = "stop"):
        self.path = path
        self.bad = bad

    def load(self) -> PairSet:
        gathering = Gathering(self.bad)
        files = [self.path] if self.path.is_file() else sorted(self.path.rglob("*.parquet"))
        training = [file for file in files if file.name.startswith("train-")] or files
        for file in files:
            name = file.relative_to(self.path).as_posix() if file != self.path else file.name
            shard = Shard(file)
            if file in training:
                _gather(shard, name, gathering)
            else:
                reason = "not a train-* shard of the data set"
                for row in range(shard.count()):
                    gathering.leave_out(reason, f"{name} row {row}")
        return gathering.pairs(str(self.path))


def picture_bytes(cell: Any) -> bytes | None:
    """What a picture cell holds: bytes, or the struct {bytes, path} that the datasets library writes."""
    return cell.get("bytes") if isinstance(cell, dict) else cell


def _gather(shard: Shard, name: str, gathering: Gathering) -> None:
    for number, (group, row, values) in enumerate(shard.rows()):
        where = f"{name} row {number}"
        try:
            share_0 = share(values["label_0"], values["label_1"])
            if share_0 is None or values.get("has_label") is False:
                gathering.leave_out(UNLABELLED, where)
                continue
            if values.get("are_different") is False:
                gathering.leave_out("marked as showing the same picture twice (are_different is false)", where)
                continue
            cells = [_cell(shard, group, row, column, values[column], where) for column in PICTURES]
        except (UserError, ValueError) as error:
            gathering.broken(str(error).removeprefix(f"{where}, "), where)
            continue
        gathering.judged(str(values["caption"] or ""), cells[0], cells[1], share_0, where)


def _cell(shard: Shard, group: int, row: int, column: str, cell: Any, where: str) -> ParquetCell:
    label = f"{where}, {column}"
    data = picture_bytes(cell)
    if data is None:
        raise UserError(f"{label} holds no picture")
    if not isinstance(data, bytes):
        raise UserError(f"{label} holds {type(data).__name__}, not a picture file's bytes")
    return ParquetCell(shard, group, row, column, label, hashlib.sha256(data).hexdigest(), measure(data, label))

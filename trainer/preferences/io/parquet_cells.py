"""How are rows and pictures read from a parquet file that is larger than the memory?"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...images.decode import image_size
from ...images.image_ref import verify_unchanged

_ROWS_AT_ONCE = 8
_BATCHES_KEPT = 4


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
    """A picture whose row was just read: it holds the bytes until it is dropped. `ref` is the ParquetCell there."""

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

    pictures: the columns that `cell` reads. Cells are cheap to read in ascending order, give or take a few rows, as the
    encoder does; going back means reading the row group again from its start, because parquet cannot jump to a row.
    Memory: a few rows, or one page of each column where the writer made its pages larger than that.
    """

    def __init__(self, path: Path, pictures: Sequence[str]):
        self.path = path
        self._pictures = list(pictures)
        self._lock = threading.Lock()
        self._row_group = -1
        self._batches: Iterator[list[dict[str, Any]]] = iter(())
        self._next_row = 0
        self._kept: dict[int, list[dict[str, Any]]] = {}

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """(row group, row within it, the row's values in `columns`), the whole file through."""
        with opened(self.path) as file:
            for group in range(file.num_row_groups):
                row = 0
                for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=list(columns)):
                    for values in batch.to_pylist():
                        yield group, row, values
                        row += 1

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
        with opened(self.path) as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[row_group], columns=self._pictures):
                yield batch.to_pylist()


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A pyarrow.parquet.ParquetFile. Raises UserError naming the file where it, or what is read of it, is damaged."""
    import pyarrow
    import pyarrow.parquet

    try:
        # A buffer, and no reading ahead: otherwise pyarrow holds whole column chunks, a row group's every picture.
        with pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as parquet: {error}") from error


def picture_bytes(cell: Any) -> bytes | None:
    """What a picture cell holds: bytes, or the struct {bytes, path} that the datasets library writes."""
    return cell.get("bytes") if isinstance(cell, dict) else cell

"""Parquet export: writing pairs as Pick-a-Pic, binarized or vote counts.

A row group holds a bounded number of bytes, and so does a file, so that neither writing nor reading needs much memory.
The image columns of the last two are marked as images for the `datasets` library, which shows them then.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .parquet_reader import LAYOUTS, OWN_CAPTION
from .writer import Capabilities, ExportedImage, ExportedPair

_GROUP_BYTES = 64 * 1024**2
_FILE_BYTES = 1024**3
_ROWS_PER_PAGE = 4
"""After that many rows a page of 1 MiB or more is closed: pyarrow's 1024 would make pages of a gigabyte."""

Record = dict[str, Any]


@dataclass(frozen=True)
class _Format:
    capabilities: Capabilities
    row: Callable[[ExportedPair], Record]
    columns: dict[str, str]
    """Besides the images: "text", "number" or "yes or no"."""
    structs: bool = True
    """Whether images are structs of bytes and path, as the `datasets` library wants them."""


class ParquetWriter:
    """train-00000.parquet and so on. layout: a key of `parquet_reader.LAYOUTS`."""

    def __init__(self, folder: Path, layout: str):
        self._folder = folder
        self._format = _FORMATS[layout]
        self.capabilities = self._format.capabilities
        self._schema = _schema(LAYOUTS[layout].images, self._format)
        self._images = LAYOUTS[layout].images
        self._rows: list[Record] = []
        self._row_bytes = 0
        self._file: Any = None
        self._file_bytes = 0
        self._files = 0

    def write(self, pair: ExportedPair) -> None:
        row = self._format.row(pair)
        for name in self._images:
            image: ExportedImage = row[name]
            data = image.read()
            self._row_bytes += len(data)
            row[name] = {"bytes": data, "path": image.name} if self._format.structs else data
        self._rows.append(row)
        if self._row_bytes >= _GROUP_BYTES:
            self._write_group()

    def finish(self) -> None:
        if self._rows or not self._files:
            self._write_group()
        self._close()

    def _write_group(self) -> None:
        import pyarrow
        import pyarrow.parquet

        if self._file is None:
            self._file = pyarrow.parquet.ParquetWriter(
                self._folder / f"train-{self._files:05}.parquet",
                self._schema,
                compression="none",  # images are compressed already
                use_dictionary=False,
                write_batch_size=_ROWS_PER_PAGE,
            )
            self._files += 1
        self._file.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._schema))
        self._file_bytes += self._row_bytes
        self._rows, self._row_bytes = [], 0
        if self._file_bytes >= _FILE_BYTES:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._file_bytes = None, 0


def _own_caption(pair: ExportedPair) -> Record:
    return {OWN_CAPTION: pair.rejected_prompt}


def _schema(images: tuple[str, str], fmt: _Format) -> Any:
    import pyarrow as pa

    types = {"text": pa.string(), "number": pa.float64(), "yes or no": pa.bool_()}
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()}) if fmt.structs else pa.binary()
    fields = {**dict.fromkeys(images, image), **{name: types[what] for name, what in fmt.columns.items()}}
    if not fmt.structs:
        return pa.schema(fields)
    hub = {"text": "string", "number": "float64", "yes or no": "bool"}
    features: dict[str, Any] = {name: {"_type": "Image"} for name in images}
    features |= {name: {"dtype": hub[what], "_type": "Value"} for name, what in fmt.columns.items()}
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _pick_a_pic(pair: ExportedPair) -> Record:
    share = round(pair.votes_first / pair.votes, 12) if pair.votes else None
    return {
        "jpg_0": pair.first,
        "jpg_1": pair.second,
        "label_0": share,
        "label_1": None if share is None else round(1 - share, 12),
        "caption": pair.prompt,
        "has_label": share is not None,
        "are_different": True,
        "image_0_uid": pair.first.sha256,
        "image_1_uid": pair.second.sha256,
        "model_0": pair.first.model,
        "model_1": pair.second.model,
        **_own_caption(pair),
    }


def _binarized(pair: ExportedPair) -> Record:
    chosen, rejected = pair.chosen_first
    return {"prompt": pair.prompt, "chosen": chosen, "rejected": rejected, **_own_caption(pair)}


def _votes(pair: ExportedPair) -> Record:
    return {
        "prompt": pair.prompt,
        "image1": pair.first,
        "image2": pair.second,
        "votes_image1": round(pair.votes_first, 12),
        "votes_image2": round(pair.votes - pair.votes_first, 12),
        "model1": pair.first.model,
        "model2": pair.second.model,
        **_own_caption(pair),
    }


_FORMATS = {
    "pick-a-pic": _Format(
        Capabilities(ties=True, unjudged=True, shares=True, captions=True),
        _pick_a_pic,
        {
            **dict.fromkeys(("label_0", "label_1"), "number"),
            **dict.fromkeys(("caption", "image_0_uid", "image_1_uid", "model_0", "model_1", OWN_CAPTION), "text"),
            **dict.fromkeys(("has_label", "are_different"), "yes or no"),
        },
        structs=False,
    ),
    "binarized": _Format(Capabilities(captions=True), _binarized, {"prompt": "text", OWN_CAPTION: "text"}),
    "votes": _Format(
        Capabilities(ties=True, unjudged=True, shares=True, votes=True, captions=True),
        _votes,
        {
            **dict.fromkeys(("prompt", "model1", "model2", OWN_CAPTION), "text"),
            **dict.fromkeys(("votes_image1", "votes_image2"), "number"),
        },
    ),
}

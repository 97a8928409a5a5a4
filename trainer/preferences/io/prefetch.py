"""Prefetching for imports: images of the next rows are read, checked and stored by threads; rows come in order.

Memory holds the images of a few rows ahead; a row that has been yielded holds no image's bytes any more.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...errors import DiskFull, UserError
from ..images import ImageMetadata, StoredFile, store_image
from ..pairs import normalize_prompt
from ..store import Store
from .infotext import read_infotext
from .records import Reader, SourceGroup, SourceImage, SourceRow, Unusable

ONLY_IMAGE = "the only picture of its prompt: there is nothing to compare it with"
_ROWS_AHEAD = 24
_MAX_REMEMBERED = 1000
"""Images that are not read again: one is often in several pairs near each other."""


@dataclass(frozen=True)
class StoredImage:
    """An image in the workspace's folder, and what is known of how it was generated."""

    file: StoredFile
    metadata: ImageMetadata


@dataclass(frozen=True)
class StoredRow:
    """A `SourceRow` whose images are stored; its fields are explained there."""

    prompt: str
    image_0: StoredImage
    image_1: StoredImage
    share_0: float | None
    votes: float
    weight: float
    annotator: str | None
    rejected_prompt: str | None = None
    ranking: str | None = None
    assumed: bool = False


@dataclass(frozen=True)
class StoredGroup:
    """Images of one prompt, stored and not judged."""

    prompt: str
    images: tuple[StoredImage, ...]


Stored = StoredRow | StoredGroup | Unusable
_Pending = Future["StoredImage | str"]
"""An image; or the reason why it cannot be used."""


def stored_rows(store: Store, reader: Reader, is_known: Callable[[str], bool]) -> Iterator[Stored]:
    """The reader's rows in their order. is_known: whether there are images of a prompt already, so that a single one
    more is of use. Raises UserError where the source cannot be read, DiskFull where the workspace is full."""
    ahead: deque[Callable[[], Iterator[Stored]]] = deque()
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 1)) as threads:
        read = _ImageCache(lambda image: threads.submit(_store, store, image))
        try:
            for row in reader.rows():
                ahead.append(_start(row, is_known, read))
                if len(ahead) > _ROWS_AHEAD:
                    yield from ahead.popleft()()
            while ahead:
                yield from ahead.popleft()()
        finally:
            threads.shutdown(cancel_futures=True)


class _ImageCache:
    """Starts to read an image, unless that was just done. Holds no image's bytes."""

    def __init__(self, start: Callable[[SourceImage], _Pending]):
        self._start = start
        self._pending: dict[tuple[str, str | None], _Pending] = {}

    def __call__(self, image: SourceImage) -> _Pending:
        key = (image.at.label, image.model)
        if key not in self._pending:
            self._pending[key] = self._start(image)
            if len(self._pending) > _MAX_REMEMBERED:
                del self._pending[next(iter(self._pending))]
        return self._pending[key]


def _start(
    row: SourceRow | SourceGroup | Unusable, is_known: Callable[[str], bool], read: Callable[[SourceImage], _Pending]
) -> Callable[[], Iterator[Stored]]:
    """Start reading a row's images; the function that is returned waits for them."""
    if isinstance(row, Unusable):
        return partial(iter, (row,))
    prompt = normalize_prompt(row.prompt)
    if not prompt:
        return partial(iter, (Unusable("the caption is empty", row.where),))
    if isinstance(row, SourceGroup):
        if len(row.images) == 1 and not is_known(prompt):
            return partial(iter, (Unusable(ONLY_IMAGE, row.where, broken=False),))
        return partial(_group, prompt, [(image.at.label, read(image)) for image in row.images])
    # Of the row, all but its images: they may hold their bytes.
    judgement = (row.share_0, row.votes, row.weight, row.annotator, row.rejected_prompt, row.ranking, row.assumed)
    return partial(_pair, prompt, row.where, (read(row.image_0), read(row.image_1)), judgement)


def _pair(prompt: str, where: str, pending: tuple[_Pending, _Pending], judgement: tuple[Any, ...]) -> Iterator[Stored]:
    image_0, image_1 = (future.result() for future in pending)
    if isinstance(image_0, str) or isinstance(image_1, str):
        reason = image_0 if isinstance(image_0, str) else str(image_1)
        yield Unusable(reason.removeprefix(f"{where}, "), where)
    elif image_0.file.sha256 == image_1.file.sha256:
        yield Unusable("the two pictures are identical", where)
    else:
        yield StoredRow(prompt, image_0, image_1, *judgement)


def _group(prompt: str, pending: list[tuple[str, _Pending]]) -> Iterator[Stored]:
    sound = {}
    for where, future in pending:
        image = future.result()
        if isinstance(image, str):
            yield Unusable(image, where)
        else:
            sound.setdefault(image.file.sha256, image)
    if sound:
        yield StoredGroup(prompt, tuple(sound.values()))


def _store(store: Store, image: SourceImage) -> StoredImage | str:
    label = image.at.label
    try:
        data = image.at.read()
        file = store_image(store, data, label)
    except DiskFull:
        raise
    except UserError as error:
        return str(error)
    info = read_infotext(data)
    return StoredImage(file, ImageMetadata(info.seed, info.sampler, info.model or image.model, info.lora, label))

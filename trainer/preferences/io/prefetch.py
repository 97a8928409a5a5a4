"""How are the pictures of a source's rows read, checked and put into the workspace, several at once and in order?

What memory holds is the pictures of a few rows ahead; a row that has been yielded holds no picture's bytes any more.
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
from .infotext import read_text
from .records import Reader, SourceGroup, SourceImage, SourceRow, Unusable

ALONE = "the only picture of its prompt: there is nothing to compare it with"
_ROWS_AHEAD = 24
_PICTURES_REMEMBERED = 1000
"""Of which nothing is read again: a picture is often in several pairs near each other."""


@dataclass(frozen=True)
class StoredImage:
    """A picture that lies in the workspace's folder, and what is known of how it was made."""

    file: StoredFile
    about: ImageMetadata


@dataclass(frozen=True)
class StoredRow:
    """A `SourceRow` whose pictures are kept; what has no explanation here is explained there."""

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
    """Pictures of one prompt, kept; nobody judged them."""

    prompt: str
    pictures: tuple[StoredImage, ...]


Kept = StoredRow | StoredGroup | Unusable
_Reading = Future["StoredImage | str"]
"""A picture that is no good gives the reason."""


def stored_rows(store: Store, reader: Reader, is_known: Callable[[str], bool]) -> Iterator[Kept]:
    """The reader's rows in their order. is_known: whether there are pictures of a prompt already, so that a single one
    more is of use. Raises UserError where the source cannot be read, DiskFull where the workspace is full."""
    ahead: deque[Callable[[], Iterator[Kept]]] = deque()
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 1)) as threads:
        read = _Remembering(lambda picture: threads.submit(_keep, store, picture))
        try:
            for row in reader.rows():
                ahead.append(_begun(row, is_known, read))
                if len(ahead) > _ROWS_AHEAD:
                    yield from ahead.popleft()()
            while ahead:
                yield from ahead.popleft()()
        finally:
            threads.shutdown(cancel_futures=True)


class _Remembering:
    """Begins to read a picture, unless that was just done. Remembers no picture's bytes."""

    def __init__(self, begin: Callable[[SourceImage], _Reading]):
        self._begin = begin
        self._begun: dict[tuple[str, str | None], _Reading] = {}

    def __call__(self, picture: SourceImage) -> _Reading:
        name = (picture.at.label, picture.model)
        if name not in self._begun:
            self._begun[name] = self._begin(picture)
            if len(self._begun) > _PICTURES_REMEMBERED:
                del self._begun[next(iter(self._begun))]
        return self._begun[name]


def _begun(
    row: SourceRow | SourceGroup | Unusable, is_known: Callable[[str], bool], read: Callable[[SourceImage], _Reading]
) -> Callable[[], Iterator[Kept]]:
    """Begin reading a row's pictures; what comes back waits for them."""
    if isinstance(row, Unusable):
        return partial(iter, (row,))
    prompt = normalize_prompt(row.prompt)
    if not prompt:
        return partial(iter, (Unusable("the caption is empty", row.where),))
    if isinstance(row, SourceGroup):
        if len(row.pictures) == 1 and not is_known(prompt):
            return partial(iter, (Unusable(ALONE, row.where, broken=False),))
        return partial(_group, prompt, [(picture.at.label, read(picture)) for picture in row.pictures])
    # Of the row, all but its pictures: they may hold their bytes.
    told = (row.share_0, row.votes, row.weight, row.annotator, row.rejected_prompt, row.ranking, row.assumed)
    return partial(_pair, prompt, row.where, (read(row.image_0), read(row.image_1)), told)


def _pair(prompt: str, where: str, reading: tuple[_Reading, _Reading], told: tuple[Any, ...]) -> Iterator[Kept]:
    image_0, image_1 = (future.result() for future in reading)
    if isinstance(image_0, str) or isinstance(image_1, str):
        reason = image_0 if isinstance(image_0, str) else str(image_1)
        yield Unusable(reason.removeprefix(f"{where}, "), where)
    elif image_0.file.sha256 == image_1.file.sha256:
        yield Unusable("the two pictures are identical", where)
    else:
        yield StoredRow(prompt, image_0, image_1, *told)


def _group(prompt: str, reading: list[tuple[str, _Reading]]) -> Iterator[Kept]:
    sound = {}
    for where, future in reading:
        picture = future.result()
        if isinstance(picture, str):
            yield Unusable(picture, where)
        else:
            sound.setdefault(picture.file.sha256, picture)
    if sound:
        yield StoredGroup(prompt, tuple(sound.values()))


def _keep(store: Store, picture: SourceImage) -> StoredImage | str:
    label = picture.at.label
    try:
        data = picture.at.read()
        file = store_image(store, data, label)
    except DiskFull:
        raise
    except UserError as error:
        return str(error)
    text = read_text(data)
    return StoredImage(file, ImageMetadata(text.seed, text.sampler, text.model or picture.model, text.lora, label))

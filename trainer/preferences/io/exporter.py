"""How is a dataset of the workspace written as files for other programs?

Into a folder that appears when it is whole: it is written beside its place under another name. A layout holds what it
can; what it cannot is counted in the report, never dropped silently. The workspace is only read.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import aliased

from ...atomic_files import explain_disk_full
from ...cancellation import Cancelled
from ...errors import UserError
from ..dataset_pairs import captions_of, rankings_of
from ..datasets import find_dataset
from ..images import image_path
from ..pairs import LeftOut, left_out
from ..preference import TIE, UNLABELLED, preference, undecided
from ..schema import Candidate, ImageRecord, Pair, Prompt
from ..store import Store
from .detect_layout import LAYOUTS
from .folder_writers import InvokeWriter, KohyaWriter, OneTrainerWriter, RankedWriter
from .parquet_writer import ParquetWriter
from .writer import Capabilities, ExportedImage, ExportedPair, Writer, write_file

_ROWS_AT_ONCE = 200
_TELL_SECONDS = 0.2
Tell = Callable[..., None]


@dataclass(frozen=True)
class ExportReport:
    """What was written. left: pairs that the layout cannot hold, and why; lost: what it does not say of the others.
    assumed: of the pairs, those that nobody judged: the rejected picture was painted to be rejected."""

    dataset: str
    layout: str
    folder: Path
    pairs: int
    pictures: int
    left: tuple[LeftOut, ...] = ()
    lost: tuple[str, ...] = ()
    assumed: int = 0

    def __str__(self) -> str:
        """In sentences, one a line."""
        what = f"{self.pairs} pairs with " if self.layout != "outputs" else ""
        lines = [f"{what}{self.pictures} pictures of {self.dataset} are in {self.folder} (layout {self.layout})"]
        if self.assumed:
            lines.append(f"of {self.assumed} of them the preference was assumed, not judged by a person")
        lines += [f"left out: {one.count} x {one.reason}" for one in self.left]
        return "\n".join([*lines, *(f"not in the files: {what}" for what in self.lost)])


def export_pairs(
    store: Store, dataset_name: str, layout: str, folder: Path, *, tell: Tell | None = None, stop: Any = None
) -> ExportReport:
    """Write a dataset in a layout, a key of `formats.opening.LAYOUTS`, as the folder `folder`, which must not be there
    or be empty.

    tell("exporting", done=, total=) hears of pairs (of "outputs": pictures). stop: true once it is to be left, as
    `stopping.StopRequest`; then Cancelled is raised. Raises UserError where there is nothing to write, a picture
    is missing or the disk is full; nothing is left behind then.
    """
    if layout not in LAYOUTS:
        raise UserError(f"there is no layout {layout!r}: use {', '.join(LAYOUTS)}")
    folder = Path(folder).expanduser().absolute()
    with store.reading() as session:
        dataset = find_dataset(session, dataset_name)
    with _whole_folder(folder) as part:
        told = _Telling(tell, stop)
        if layout == "outputs":
            count, left, lost = _write_pictures(store, dataset.id, part, told), (), _NOT_IN_PICTURES
            pairs, pictures, assumed = 0, count, 0
        else:
            writer = _writer(layout, part, dataset.name)
            pairs, assumed, pictures, left, lost = _write_pairs(store, dataset.id, writer, told)
        if not pictures:
            reasons = "; ".join(f"{one.count} x {one.reason}" for one in left)
            raise UserError(f"{dataset.name} holds nothing to write as {layout}: {reasons or 'it is empty'}")
    told.finished()
    return ExportReport(dataset.name, layout, folder, pairs, pictures, left, lost, assumed)


_NOT_IN_PICTURES = ("pairs and judgements: these are the pictures and their prompts alone",)


class _Telling:
    """Stopping at every row, progress now and then."""

    def __init__(self, tell: Tell | None, stop: Any):
        self._tell, self._stop = tell, stop
        self._last = 0.0
        self.total = 0

    def done(self, count: int) -> None:
        if self._stop:
            raise Cancelled
        if self._tell and time.monotonic() - self._last > _TELL_SECONDS:
            self._last = time.monotonic()
            self._tell("exporting", done=count, total=self.total)

    def finished(self) -> None:
        if self._tell:
            self._tell("exporting", done=self.total, total=self.total)


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already and not empty: choose another place, or move it away")
    with explain_disk_full(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
        try:
            part.chmod(0o755)  # mkdtemp makes folders private
            yield part
            with suppress(FileNotFoundError):
                folder.rmdir()  # an empty one is in the way on Windows
            part.rename(folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def _writer(layout: str, folder: Path, dataset: str) -> Writer:
    writers = {"kohya": KohyaWriter, "onetrainer": OneTrainerWriter, "invoke": InvokeWriter, "ranked": RankedWriter}
    return writers[layout](folder, dataset) if layout in writers else ParquetWriter(folder, layout)


def _write_pairs(
    store: Store, dataset: int, writer: Writer, told: _Telling
) -> tuple[int, int, int, tuple[LeftOut, ...], tuple[str, ...]]:
    told.total = _count(store, Pair, dataset)
    written = assumed = 0
    pictures: set[str] = set()
    without: list[tuple[str, str]] = []
    losses = _Losses(writer.capabilities)
    try:
        for number, (pair, both_bad) in enumerate(_pairs(store, dataset)):
            told.done(number)
            reason = undecided(pair.votes_first, pair.votes, both_bad)
            held = {None: True, TIE: writer.capabilities.ties, UNLABELLED: writer.capabilities.unjudged}
            if not held.get(reason, False):
                without.append((str(reason), _shown(pair)))
                continue
            losses.count(pair, both_bad)
            writer.write(pair)
            written += 1
            assumed += pair.assumed
            pictures |= {pair.first.sha256, pair.second.sha256}
    finally:
        writer.finish()
    return written, assumed, len(pictures), left_out(without), losses.sentences()


class _Losses:
    """What of the written pairs the layout does not say."""

    def __init__(self, capabilities: Capabilities):
        self._capabilities = capabilities
        self._counts: dict[str, int] = {}

    def count(self, pair: ExportedPair, both_bad: float) -> None:
        found = pair.preference
        if found is None and not pair.votes:
            return
        if found is not None and found.share < 1 and not self._capabilities.shares:
            self._add("how sure the judgements are (only which picture is chosen)")
        if pair.votes != 1 and not self._capabilities.votes:
            self._add("how many people judged")
        if pair.rejected_prompt and not self._capabilities.captions:
            self._add("the rejected pictures' own captions")
        if pair.assumed and not self._capabilities.assumed:
            self._add("that nobody judged them, and the preference was assumed")
        if pair.ranking and self._capabilities.rankings:
            return
        if pair.ranking:
            self._add("which pictures were ranked together")
        if found is not None and found.weight != 1 and not self._capabilities.whole_weights:
            self._add("the weight")
        if found is not None and self._capabilities.whole_weights and found.weight != max(1, round(found.weight)):
            self._add("the exact weight (repeats are whole numbers)")
        if both_bad:
            self._add("the votes that neither picture is any good")

    def sentences(self) -> tuple[str, ...]:
        return tuple(f"{what}, of {count} pairs" for what, count in self._counts.items())

    def _add(self, what: str) -> None:
        self._counts[what] = self._counts.get(what, 0) + 1


def _write_pictures(store: Store, dataset: int, folder: Path, told: _Telling) -> int:
    told.total = _count_candidates(store, dataset)
    names: dict[str, int] = {}
    written = 0
    for prompt, picture in _candidates(store, dataset):
        told.done(written)
        times = names[picture.name] = names.get(picture.name, 0) + 1
        name = picture.sha256[:16] + (f"-{times}" if times > 1 else "")  # one picture, several prompts
        write_file(folder, name + picture.ending, picture.read())
        write_file(folder, name + ".txt", prompt.encode())
        written += 1
    return written


def _pairs(store: Store, dataset: int) -> Iterator[tuple[ExportedPair, float]]:
    """(pair, votes for both bad), in the order in which they were made."""
    first, second = aliased(ImageRecord), aliased(ImageRecord)
    asked = (
        select(Pair, Prompt.text, first, second)
        .join(Prompt, Prompt.id == Pair.prompt_id)
        .join(first, first.id == Pair.first_id)
        .join(second, second.id == Pair.second_id)
        .where(Pair.dataset_id == dataset)
        .order_by(Pair.id)
        .limit(_ROWS_AT_ONCE)
    )
    last = 0
    with store.reading() as session:
        captions, rankings = captions_of(session, dataset), rankings_of(session, dataset)
    while True:
        with store.reading() as session:
            rows = session.execute(asked.where(Pair.id > last)).all()
        for pair, prompt, one, other in rows:
            found = preference(pair.votes_first, pair.votes, pair.weight, pair.both_bad)
            pictures = _stored(store, one), _stored(store, other)
            rejected = pair.second_id if found is None or found.for_first else pair.first_id
            own = captions.get((pair.prompt_id, rejected)) if found else None
            how = (own, rankings.get(pair.id), pair.assumed)
            yield ExportedPair(prompt, *pictures, pair.votes, pair.votes_first, found, *how), pair.both_bad
            last = pair.id
        if len(rows) < _ROWS_AT_ONCE:
            return


def _candidates(store: Store, dataset: int) -> Iterator[tuple[str, ExportedImage]]:
    asked = (
        select(Candidate.id, Prompt.text, ImageRecord)
        .join(Prompt, Prompt.id == Candidate.prompt_id)
        .join(ImageRecord, ImageRecord.id == Candidate.picture_id)
        .where(Prompt.dataset_id == dataset)
        .order_by(Candidate.id)
        .limit(_ROWS_AT_ONCE)
    )
    last = 0
    while True:
        with store.reading() as session:
            rows = session.execute(asked.where(Candidate.id > last)).all()
        for candidate, prompt, picture in rows:
            yield prompt, _stored(store, picture)
            last = candidate
        if len(rows) < _ROWS_AT_ONCE:
            return


def _stored(store: Store, picture: ImageRecord) -> ExportedImage:
    path = image_path(store, picture)

    def read() -> bytes:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"the workspace's picture {path} cannot be read: {error.strerror or error}") from None
        if hashlib.sha256(data).hexdigest() != picture.sha256:
            raise UserError(f"the workspace's picture {path} is damaged: put back a copy of it")
        return data

    return ExportedImage(picture.sha256, picture.ending, picture.model, read)


def _count(store: Store, table: type[Pair], dataset: int) -> int:
    with store.reading() as session:
        return session.scalar(select(func.count()).select_from(table).where(table.dataset_id == dataset)) or 0


def _count_candidates(store: Store, dataset: int) -> int:
    asked = select(func.count()).select_from(Candidate).join(Prompt).where(Prompt.dataset_id == dataset)
    with store.reading() as session:
        return session.scalar(asked) or 0


def _shown(pair: ExportedPair) -> str:
    return f"{pair.prompt[:60]!r}: {pair.first.name}, {pair.second.name}"

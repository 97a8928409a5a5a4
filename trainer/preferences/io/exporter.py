"""Export: writing a dataset of the workspace as files for other programs.

The folder appears when it is complete: it is written beside its place under another name. What a layout cannot store is
counted in the report, never dropped silently. The workspace is only read.
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

_ROWS_PER_PAGE = 200
_REPORT_SECONDS = 0.2
Tell = Callable[..., None]


@dataclass(frozen=True)
class ExportReport:
    """The result of an export. left: pairs that the layout cannot store, and why; lost: what the files lack of the
    others. assumed: of the pairs, those that nobody judged: the rejected image was generated to be rejected."""

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
    """Write a dataset in a layout, a key of `detect_layout.LAYOUTS`, into `folder`, which must be new or empty.

    tell("exporting", done=, total=): progress in pairs (of "outputs": in images). stop: true once it is to end, as
    `cancellation.StopRequest`; then Cancelled is raised. Raises UserError where there is nothing to write, an image
    is missing or the disk is full; nothing is left behind then.
    """
    if layout not in LAYOUTS:
        raise UserError(f"there is no layout {layout!r}: use {', '.join(LAYOUTS)}")
    folder = Path(folder).expanduser().absolute()
    with store.reading() as session:
        dataset = find_dataset(session, dataset_name)
    with _atomic_folder(folder) as part:
        progress = _Progress(tell, stop)
        if layout == "outputs":
            count, left, lost = _write_images(store, dataset.id, part, progress), (), _NOT_IN_OUTPUTS
            pairs, pictures, assumed = 0, count, 0
        else:
            writer = _writer(layout, part, dataset.name)
            pairs, assumed, pictures, left, lost = _write_pairs(store, dataset.id, writer, progress)
        if not pictures:
            reasons = "; ".join(f"{one.count} x {one.reason}" for one in left)
            raise UserError(f"{dataset.name} holds nothing to write as {layout}: {reasons or 'it is empty'}")
    progress.finished()
    return ExportReport(dataset.name, layout, folder, pairs, pictures, left, lost, assumed)


_NOT_IN_OUTPUTS = ("pairs and judgements: these are the pictures and their prompts alone",)


class _Progress:
    """Checks for a stop at every row, and reports progress now and then."""

    def __init__(self, tell: Tell | None, stop: Any):
        self._tell, self._stop = tell, stop
        self._last = 0.0
        self.total = 0

    def done(self, count: int) -> None:
        if self._stop:
            raise Cancelled
        if self._tell and time.monotonic() - self._last > _REPORT_SECONDS:
            self._last = time.monotonic()
            self._tell("exporting", done=count, total=self.total)

    def finished(self) -> None:
        if self._tell:
            self._tell("exporting", done=self.total, total=self.total)


@contextmanager
def _atomic_folder(folder: Path) -> Iterator[Path]:
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
    store: Store, dataset: int, writer: Writer, progress: _Progress
) -> tuple[int, int, int, tuple[LeftOut, ...], tuple[str, ...]]:
    progress.total = _count(store, Pair, dataset)
    written = assumed = 0
    images: set[str] = set()
    skipped: list[tuple[str, str]] = []
    losses = _Losses(writer.capabilities)
    try:
        for number, (pair, both_bad) in enumerate(_pairs(store, dataset)):
            progress.done(number)
            reason = undecided(pair.votes_first, pair.votes, both_bad)
            storable = {None: True, TIE: writer.capabilities.ties, UNLABELLED: writer.capabilities.unjudged}
            if not storable.get(reason, False):
                skipped.append((str(reason), _label(pair)))
                continue
            losses.count(pair, both_bad)
            writer.write(pair)
            written += 1
            assumed += pair.assumed
            images |= {pair.first.sha256, pair.second.sha256}
    finally:
        writer.finish()
    return written, assumed, len(images), left_out(skipped), losses.sentences()


class _Losses:
    """Counts what the layout cannot store of the written pairs."""

    def __init__(self, capabilities: Capabilities):
        self._capabilities = capabilities
        self._counts: dict[str, int] = {}

    def count(self, pair: ExportedPair, both_bad: float) -> None:
        preferred = pair.preference
        if preferred is None and not pair.votes:
            return
        if preferred is not None and preferred.share < 1 and not self._capabilities.shares:
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
        if preferred is not None and preferred.weight != 1 and not self._capabilities.whole_weights:
            self._add("the weight")
        if (
            preferred is not None
            and self._capabilities.whole_weights
            and preferred.weight != max(1, round(preferred.weight))
        ):
            self._add("the exact weight (repeats are whole numbers)")
        if both_bad:
            self._add("the votes that neither picture is any good")

    def sentences(self) -> tuple[str, ...]:
        return tuple(f"{what}, of {count} pairs" for what, count in self._counts.items())

    def _add(self, what: str) -> None:
        self._counts[what] = self._counts.get(what, 0) + 1


def _write_images(store: Store, dataset: int, folder: Path, progress: _Progress) -> int:
    progress.total = _count_candidates(store, dataset)
    names: dict[str, int] = {}
    written = 0
    for prompt, image in _candidates(store, dataset):
        progress.done(written)
        times = names[image.name] = names.get(image.name, 0) + 1
        name = image.sha256[:16] + (f"-{times}" if times > 1 else "")  # one image, several prompts
        write_file(folder, name + image.ending, image.read())
        write_file(folder, name + ".txt", prompt.encode())
        written += 1
    return written


def _pairs(store: Store, dataset: int) -> Iterator[tuple[ExportedPair, float]]:
    """(pair, votes for both bad), in the order in which they were added."""
    first, second = aliased(ImageRecord), aliased(ImageRecord)
    page = (
        select(Pair, Prompt.text, first, second)
        .join(Prompt, Prompt.id == Pair.prompt_id)
        .join(first, first.id == Pair.first_id)
        .join(second, second.id == Pair.second_id)
        .where(Pair.dataset_id == dataset)
        .order_by(Pair.id)
        .limit(_ROWS_PER_PAGE)
    )
    last = 0
    with store.reading() as session:
        captions, rankings = captions_of(session, dataset), rankings_of(session, dataset)
    while True:
        with store.reading() as session:
            rows = session.execute(page.where(Pair.id > last)).all()
        for pair, prompt, one, other in rows:
            preferred = preference(pair.votes_first, pair.votes, pair.weight, pair.both_bad)
            images = _exported_image(store, one), _exported_image(store, other)
            rejected = pair.second_id if preferred is None or preferred.for_first else pair.first_id
            own = captions.get((pair.prompt_id, rejected)) if preferred else None
            details = (own, rankings.get(pair.id), pair.assumed)
            yield ExportedPair(prompt, *images, pair.votes, pair.votes_first, preferred, *details), pair.both_bad
            last = pair.id
        if len(rows) < _ROWS_PER_PAGE:
            return


def _candidates(store: Store, dataset: int) -> Iterator[tuple[str, ExportedImage]]:
    page = (
        select(Candidate.id, Prompt.text, ImageRecord)
        .join(Prompt, Prompt.id == Candidate.prompt_id)
        .join(ImageRecord, ImageRecord.id == Candidate.picture_id)
        .where(Prompt.dataset_id == dataset)
        .order_by(Candidate.id)
        .limit(_ROWS_PER_PAGE)
    )
    last = 0
    while True:
        with store.reading() as session:
            rows = session.execute(page.where(Candidate.id > last)).all()
        for candidate, prompt, record in rows:
            yield prompt, _exported_image(store, record)
            last = candidate
        if len(rows) < _ROWS_PER_PAGE:
            return


def _exported_image(store: Store, record: ImageRecord) -> ExportedImage:
    path = image_path(store, record)

    def read() -> bytes:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"the workspace's picture {path} cannot be read: {error.strerror or error}") from None
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise UserError(f"the workspace's picture {path} is damaged: put back a copy of it")
        return data

    return ExportedImage(record.sha256, record.ending, record.model, read)


def _count(store: Store, table: type[Pair], dataset: int) -> int:
    with store.reading() as session:
        return session.scalar(select(func.count()).select_from(table).where(table.dataset_id == dataset)) or 0


def _count_candidates(store: Store, dataset: int) -> int:
    candidates = select(func.count()).select_from(Candidate).join(Prompt).where(Prompt.dataset_id == dataset)
    with store.reading() as session:
        return session.scalar(candidates) or 0


def _label(pair: ExportedPair) -> str:
    return f"{pair.prompt[:60]!r}: {pair.first.name}, {pair.second.name}"

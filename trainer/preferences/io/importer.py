"""Import: pairs, judgements and images from files into a dataset of the workspace.

The rows are those that training on the files would read. They go in some hundred at a time, each time whole or not at
all, and what is there already is recognised by its content: an import that was interrupted is completed by the same
import, a source that grew adds what is new, and where the files lie does not matter.

A row that cannot be used is left out, counted and named; it stops nothing.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ...errors import UserError
from ..bulk_insert import PairRow, add_rows
from ..datasets import add_candidates, add_prompt, create_dataset, prompt_digest, spread_pairs
from ..images import image_records
from ..pairs import LeftOut, left_out, normalize_prompt, storable_text
from ..schema import Candidate, Dataset, ImageRecord, Prompt
from ..store import Store
from .detect_layout import find_reader
from .prefetch import Stored, StoredGroup, StoredRow, stored_rows
from .records import Unusable

CLIENT = "import"
"""The same for all sources: a judgement is identified by its content, not by where its file lies."""
_IMAGES_PER_TRANSACTION = 600
_REPORT_SECONDS = 0.2

Tell = Callable[..., None]


@dataclass(frozen=True)
class ImportReport:
    """The result of an import. pairs, judgements: new ones in the dataset; waiting: of the pairs, the unjudged ones;
    pictures: new ones in the workspace; there: rows (of unjudged images: images) that were there already; left: what
    was left out, and why; stopped: whether it was stopped before the end."""

    dataset: str
    source: str
    pairs: int = 0
    waiting: int = 0
    judgements: int = 0
    pictures: int = 0
    there: int = 0
    left: tuple[LeftOut, ...] = ()
    stopped: bool = False

    @property
    def useful(self) -> bool:
        """Whether anything of the source is in the dataset, be it from an earlier import."""
        return bool(self.pairs or self.judgements or self.pictures or self.there)

    def __str__(self) -> str:
        """In sentences, one a line."""
        waiting = f" ({self.waiting} of them to be judged)" if self.waiting else ""
        there = f"; {self.there} were there already" if self.there else ""
        new = (
            f"{self.pairs} pairs{waiting}, {self.judgements} judgements and {self.pictures} pictures are new in "
            f"{self.dataset}{there}"
        )
        left = [f"left out: {one.count} x {one.reason} ({', '.join(one.examples)}{_more(one)})" for one in self.left]
        stopped = ["stopped before the end: the same import resumes there"] if self.stopped else []
        return "\n".join([new, *left, *stopped])


def import_pairs(
    store: Store,
    dataset_name: str,
    path: str | Path,
    *,
    layout: str | None = None,
    chosen_pattern: str | None = None,
    rejected_pattern: str | None = None,
    annotator: str = CLIENT,
    anywhere: bool = False,
    own_captions: bool = False,
    tell: Tell | None = None,
    stop: Any = None,
) -> ImportReport:
    """Import the files at `path` into the dataset of that name, which is created if need be.

    layout, patterns: see `detect_layout.find_reader`. annotator: who judged, where the source does not say. anywhere:
    whether a metadata.jsonl may name images outside its folder; not one that came over the network. own_captions:
    whether, in folders, the caption of the rejected image may differ from the chosen one's.
    tell("importing", done=, total=): progress in rows; total may be None. stop: true once it is to end, as
    `cancellation.StopRequest`; what was imported until then stays. Raises UserError where no known layout lies there,
    the source cannot be read, or the dataset is a comparison.
    """
    reader = find_reader(path, layout, chosen_pattern, rejected_pattern, absolute=anywhere, own_captions=own_captions)
    batch = _ImportBatches(store, normalize_prompt(dataset_name), annotator)
    total = reader.count() if tell else None
    done, reported, stopped = 0, 0.0, False
    with closing(stored_rows(store, reader, batch.has_images)) as rows:
        for row in rows:
            if stop:
                stopped = True
                break
            batch.add(row)
            done += 1
            if tell and time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                tell("importing", done=done, total=total)
    batch.flush()
    if tell:
        tell("importing", done=done, total=total)
    return batch.report(reader.source, stopped)


class _ImportBatches:
    """Collects rows and writes them into one dataset, a batch in a transaction."""

    def __init__(self, store: Store, dataset: str, annotator: str):
        self._store, self._dataset, self._annotator = store, dataset, annotator
        self._rows: list[StoredRow] = []
        self._groups: list[StoredGroup] = []
        self._pending_images = 0
        self._occurrences: Counter[int] = Counter()
        self._unusable: list[tuple[str, str]] = []
        self._counts: Counter[str] = Counter()
        if not dataset:
            raise UserError("the dataset to import into needs a name")
        with store.reading() as session:
            into_dataset(session, self._dataset)

    def add(self, row: Stored) -> None:
        if isinstance(row, Unusable):
            self._unusable.append((storable_text(row.reason), storable_text(row.where)))
        elif isinstance(row, StoredRow):
            self._rows.append(row)
            self._pending_images += 2
        else:
            self._groups.append(row)
            self._pending_images += len(row.images)
        if self._pending_images >= _IMAGES_PER_TRANSACTION:
            self.flush()

    def flush(self) -> None:
        """Write the batch into the dataset, in one transaction."""
        if not self._rows and not self._groups:
            return
        with self._store.writing() as session:
            dataset = into_dataset(session, self._dataset, make=True)
            assert dataset is not None
            counts = self._write(session, dataset)
        self._counts.update(counts)
        self._rows, self._groups, self._pending_images = [], [], 0

    def has_images(self, prompt: str) -> bool:
        """Whether the dataset has images of a prompt."""
        with self._store.reading() as session:
            dataset = into_dataset(session, self._dataset)
            return dataset is not None and _count_candidates(session, dataset, prompt) > 0

    def report(self, source: str, stopped: bool) -> ImportReport:
        return ImportReport(self._dataset, source, **self._counts, left=left_out(self._unusable), stopped=stopped)

    def _write(self, session: Session, dataset: Dataset) -> Counter[str]:
        counts: Counter[str] = Counter()
        records = self._image_records(session, counts)
        rows = [self._pair_row(row, records) for row in self._rows]
        judged, waiting = [row for row in rows if row.verdict], [row for row in rows if not row.verdict]
        if judged:
            added = add_rows(session, dataset, judged, CLIENT, CLIENT, self._annotator)
            counts.update(pairs=added.pairs, judgements=added.judgements, there=len(judged) - added.judgements)
        if waiting:
            new = add_rows(session, dataset, waiting, CLIENT, CLIENT).pairs
            counts.update(pairs=new, waiting=new, there=len(waiting) - new)
        for group in self._groups:
            before = _count_candidates(session, dataset, group.prompt)
            prompt = add_prompt(session, dataset, group.prompt)
            add_candidates(session, prompt, [records[image.file.sha256] for image in group.images])
            after = _count_candidates(session, dataset, group.prompt)
            new = spread_pairs(session, prompt)
            counts.update(pairs=new, waiting=new, there=len(group.images) - (after - before))
        return counts

    def _image_records(self, session: Session, counts: Counter[str]) -> dict[str, ImageRecord]:
        """Of the whole batch, by their hash."""
        images = [image for row in self._rows for image in (row.image_0, row.image_1)]
        images += [image for group in self._groups for image in group.images]
        last_before = session.scalar(select(func.max(ImageRecord.id))) or 0
        records = image_records(session, ((image.file, image.metadata) for image in images))
        counts["pictures"] = sum(record.id > last_before for record in records.values())
        return records

    def _pair_row(self, row: StoredRow, records: dict[str, ImageRecord]) -> PairRow:
        two = [records[row.image_0.file.sha256], records[row.image_1.file.sha256]]
        share = None if row.share_0 is None else round(row.share_0, 12)
        annotator = normalize_prompt(row.annotator or "")[:200] or None
        sequence = self._sequence(row, two, share, annotator)
        return PairRow(
            row.prompt,
            two[0],
            two[1],
            sequence,
            share,
            votes=row.votes,
            weight=row.weight,
            annotator=annotator,
            rejected_prompt=row.rejected_prompt,
            purpose="assumed" if row.assumed else "ranking" if row.ranking else "import",
        )

    def _sequence(self, row: StoredRow, two: Sequence[ImageRecord], share: float | None, annotator: str | None) -> int:
        """A number for the content of a row and for how often the source repeated it before: three people may agree.
        Rows of one ranking, which has a name, share one."""
        if row.ranking is not None:
            return _hash63(row.prompt, row.ranking, annotator)
        names = [record.sha256 for record in two]
        if names[0] > names[1]:
            names, share = names[::-1], None if share is None else round(1 - share, 12)
        content = _hash63(row.prompt, *names, share, float(row.votes), float(row.weight), annotator)
        self._occurrences[content] += 1
        return _hash63(content, self._occurrences[content])


def into_dataset(session: Session, name: str, make: bool = False) -> Dataset | None:
    """The dataset of that name, to import into. make: a new one where there is none.

    Raises UserError where it is a comparison.
    """
    dataset = session.scalar(select(Dataset).where(Dataset.name == normalize_prompt(name)))
    if dataset is not None and dataset.kind != "pairs":
        raise UserError(f"{dataset.name} is a {dataset.kind}, which nothing is imported into: name a dataset")
    return create_dataset(session, name) if dataset is None and make else dataset


def _count_candidates(session: Session, dataset: Dataset, prompt: str) -> int:
    candidates = select(func.count()).select_from(Candidate).join(Prompt, Prompt.id == Candidate.prompt_id)
    of_prompt = candidates.where(Prompt.dataset_id == dataset.id, Prompt.digest == prompt_digest(prompt))
    return session.scalar(of_prompt) or 0


def _more(left: LeftOut) -> str:
    return ", ..." if left.count > len(left.examples) else ""


def _hash63(*values: object) -> int:
    """63 bits of a hash: as many as the column holds."""
    return int.from_bytes(hashlib.sha256(repr(values).encode()).digest()[:8], "big") >> 1

"""How do pairs, judgements and pictures from files get into a dataset of the workspace?

The rows are those that training on the files would read (`formats`). They go in some hundred at a time, each time whole
or not at all, and what is there already is recognised by its content: an import that was cut off is finished by the
same import, a source that grew adds what is new, and where the files lie does not matter.

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
from .prefetch import Kept, StoredGroup, StoredRow, stored_rows
from .records import Unusable

CLIENT = "import"
"""One for all sources: a judgement is told from others by what it says, not by where its file lies."""
_PICTURES_AT_ONCE = 600
_TELL_SECONDS = 0.2

Tell = Callable[..., None]


@dataclass(frozen=True)
class ImportReport:
    """What an import did. pairs, judgements: that are new in the dataset; waiting: of the pairs, those that nobody
    judged yet; pictures: that are new in the workspace; there: rows (of pictures without judgement: pictures) that had
    been there; left: what was left out, and why; stopped: whether it was asked to stop before the end."""

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
        """Whether anything of the source is in the dataset, be it from before."""
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
        stopped = ["stopped before the end: the same import goes on from there"] if self.stopped else []
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
    """Take what lies at `path` into the dataset of that name, which is made if need be.

    layout, patterns: see `formats.opening.find_reader`. annotator: who judged, where the source does not say. anywhere:
    whether a metadata.jsonl may name pictures outside its folder; not one that came over the network. own_captions:
    whether, in folders, the caption of the rejected picture may say something else than the chosen one's.
    tell("importing", done=, total=) hears of rows; total may be None. stop: true once it is to be left, as
    `stopping.StopRequest`; what was taken until then stays. Raises UserError where nothing known lies there, the source
    cannot be read, or the dataset is a comparison.
    """
    reader = find_reader(path, layout, chosen_pattern, rejected_pattern, absolute=anywhere, own_captions=own_captions)
    into = _Importing(store, normalize_prompt(dataset_name), annotator)
    total = reader.count() if tell else None
    done, told, stopped = 0, 0.0, False
    with closing(stored_rows(store, reader, into.knows)) as rows:
        for kept in rows:
            if stop:
                stopped = True
                break
            into.take(kept)
            done += 1
            if tell and time.monotonic() - told > _TELL_SECONDS:
                told = time.monotonic()
                tell("importing", done=done, total=total)
    into.flush()
    if tell:
        tell("importing", done=done, total=total)
    return into.report(reader.source, stopped)


class _Importing:
    """Rows on their way into one dataset."""

    def __init__(self, store: Store, dataset: str, annotator: str):
        self._store, self._dataset, self._annotator = store, dataset, annotator
        self._rows: list[StoredRow] = []
        self._groups: list[StoredGroup] = []
        self._pictures_taken = 0
        self._said: Counter[int] = Counter()
        self._without: list[tuple[str, str]] = []
        self._counts: Counter[str] = Counter()
        if not dataset:
            raise UserError("the dataset to import into needs a name")
        with store.reading() as session:
            into_dataset(session, self._dataset)

    def take(self, kept: Kept) -> None:
        if isinstance(kept, Unusable):
            self._without.append((storable_text(kept.reason), storable_text(kept.where)))
        elif isinstance(kept, StoredRow):
            self._rows.append(kept)
            self._pictures_taken += 2
        else:
            self._groups.append(kept)
            self._pictures_taken += len(kept.pictures)
        if self._pictures_taken >= _PICTURES_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """What was taken goes into the dataset, in one transaction."""
        if not self._rows and not self._groups:
            return
        with self._store.writing() as session:
            dataset = into_dataset(session, self._dataset, make=True)
            assert dataset is not None
            counts = self._added(session, dataset)
        self._counts.update(counts)
        self._rows, self._groups, self._pictures_taken = [], [], 0

    def knows(self, prompt: str) -> bool:
        """Whether the dataset has pictures of a prompt."""
        with self._store.reading() as session:
            dataset = into_dataset(session, self._dataset)
            return dataset is not None and _candidates_of(session, dataset, prompt) > 0

    def report(self, source: str, stopped: bool) -> ImportReport:
        return ImportReport(self._dataset, source, **self._counts, left=left_out(self._without), stopped=stopped)

    def _added(self, session: Session, dataset: Dataset) -> Counter[str]:
        counts: Counter[str] = Counter()
        pictures = self._pictures(session, counts)
        rows = [self._row(row, pictures) for row in self._rows]
        judged, waiting = [row for row in rows if row.verdict], [row for row in rows if not row.verdict]
        if judged:
            added = add_rows(session, dataset, judged, CLIENT, CLIENT, self._annotator)
            counts.update(pairs=added.pairs, judgements=added.judgements, there=len(judged) - added.judgements)
        if waiting:
            new = add_rows(session, dataset, waiting, CLIENT, CLIENT).pairs
            counts.update(pairs=new, waiting=new, there=len(waiting) - new)
        for group in self._groups:
            before = _candidates_of(session, dataset, group.prompt)
            prompt = add_prompt(session, dataset, group.prompt)
            add_candidates(session, prompt, [pictures[one.file.sha256] for one in group.pictures])
            after = _candidates_of(session, dataset, group.prompt)
            new = spread_pairs(session, prompt)
            counts.update(pairs=new, waiting=new, there=len(group.pictures) - (after - before))
        return counts

    def _pictures(self, session: Session, counts: Counter[str]) -> dict[str, ImageRecord]:
        """Of everything taken, by their hash."""
        taken = [picture for row in self._rows for picture in (row.image_0, row.image_1)]
        taken += [picture for group in self._groups for picture in group.pictures]
        before = session.scalar(select(func.max(ImageRecord.id))) or 0
        pictures = image_records(session, ((one.file, one.about) for one in taken))
        counts["pictures"] = sum(one.id > before for one in pictures.values())
        return pictures

    def _row(self, row: StoredRow, pictures: dict[str, ImageRecord]) -> PairRow:
        two = [pictures[row.image_0.file.sha256], pictures[row.image_1.file.sha256]]
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
        """A number for what a row says, and for how often the source said so before: three people may agree. Rows of
        one ranking, which names itself, have one."""
        if row.ranking is not None:
            return _number(row.prompt, row.ranking, annotator)
        names = [picture.sha256 for picture in two]
        if names[0] > names[1]:
            names, share = names[::-1], None if share is None else round(1 - share, 12)
        said = _number(row.prompt, *names, share, float(row.votes), float(row.weight), annotator)
        self._said[said] += 1
        return _number(said, self._said[said])


def into_dataset(session: Session, name: str, make: bool = False) -> Dataset | None:
    """The dataset of that name, which something is to get into. make: a new one where there is none.

    Raises UserError where it is a comparison.
    """
    found = session.scalar(select(Dataset).where(Dataset.name == normalize_prompt(name)))
    if found is not None and found.kind != "pairs":
        raise UserError(f"{found.name} is a {found.kind}, which nothing is imported into: name a dataset")
    return create_dataset(session, name) if found is None and make else found


def _candidates_of(session: Session, dataset: Dataset, prompt: str) -> int:
    asked = select(func.count()).select_from(Candidate).join(Prompt, Prompt.id == Candidate.prompt_id)
    here = asked.where(Prompt.dataset_id == dataset.id, Prompt.digest == prompt_digest(prompt))
    return session.scalar(here) or 0


def _more(left: LeftOut) -> str:
    return ", ..." if left.count > len(left.examples) else ""


def _number(*values: object) -> int:
    """63 bits of a hash, which is what the column holds."""
    return int.from_bytes(hashlib.sha256(repr(values).encode()).digest()[:8], "big") >> 1

"""Pairs of a workspace's dataset: the PairSource that trains on its judgements.

Apart from pairs.py, because pairs in files need no database.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, or_, select, text
from sqlalchemy.orm import Session, aliased

from ..errors import UserError
from ..images.image_file import ImageFile
from .datasets import find_dataset
from .images import StoredFile, image_path
from .pairs import LeftOut, PairSet, left_out
from .pairs import Pair as JudgedPair
from .preference import UNLABELLED, preference, undecided
from .schema import IS_RANKING, Candidate, Dataset, ImageRecord, Judgement, Pair, Prompt
from .store import Store

_UNDOING = aliased(Judgement)  # to build it anew takes longer than the query


@dataclass(frozen=True)
class DatasetPairs:
    """A PairSource of one dataset."""

    store: Store
    name: str

    def load(self) -> PairSet:
        """Every pair with a preference, in the order they were added. No image is read yet.

        Raises UserError where there is no such dataset, none of its pairs can be trained on, or it is a comparison.
        """
        with self.store.reading() as session:
            dataset = find_dataset(session, self.name)
            if dataset.kind == "comparison":
                raise UserError(
                    f"{dataset.name} is a comparison: its judgements are trained on once they are fed back into a "
                    "dataset; name that"
                )
            pairs, skipped = self._judged(session, dataset)
            unjudged = _unjudged(session, dataset)
        if unjudged:
            skipped = (LeftOut(UNLABELLED, unjudged), *skipped)
        if not pairs:
            reasons = "; ".join(f"{one.count} x {one.reason}" for one in skipped) or "it is empty"
            raise UserError(f"the dataset {dataset.name} holds no pair to train on: {reasons}; judge some first")
        return PairSet(tuple(pairs), skipped, f"dataset:{dataset.name}")

    def stamp(self) -> str:
        """A text that changes whenever `load` could give something else. Reads one row: the newest judgement.

        Raises UserError where there is no such dataset.
        """
        with self.store.reading() as session:
            dataset = find_dataset(session, self.name)
            # As a join it would be looked up from the pairs' side, all of them.
            of_dataset = select(Pair.id).where(Pair.id == Judgement.pair_id, Pair.dataset_id == dataset.id).exists()
            newest = session.scalar(select(Judgement.id).where(of_dataset).order_by(Judgement.id.desc()).limit(1))
            return f"{dataset.id} {dataset.held_out!r} {newest or 0}"

    def _judged(self, session: Session, dataset: Dataset) -> tuple[list[JudgedPair], tuple[LeftOut, ...]]:
        prompts = _prompts(session, dataset)
        images = self._images(session, dataset)
        captions, rankings = captions_of(session, dataset.id), rankings_of(session, dataset.id)
        columns = (Pair.id, Pair.prompt_id, Pair.first_id, Pair.second_id, Pair.assumed)
        votes = (Pair.votes_first, Pair.votes, Pair.weight, Pair.both_bad)
        rows = session.execute(
            select(*columns, *votes)
            .where(Pair.dataset_id == dataset.id, or_(Pair.votes > 0, Pair.both_bad > 0))
            .order_by(Pair.id)
        )
        pairs: list[JudgedPair] = []
        others: list[tuple[str, str]] = []
        for pair, prompt, first, second, assumed, votes_first, total, weight, both_bad in rows:
            preferred = preference(votes_first, total, weight, both_bad)
            if preferred is None:
                others.append((str(undecided(votes_first, total, both_bad)), f"pair {pair}"))
                continue
            chosen, rejected = (first, second) if preferred.for_first else (second, first)
            own_caption = captions.get((prompt, rejected))
            details = (preferred.share, preferred.weight, own_caption, rankings.get(pair), assumed)
            pairs.append(JudgedPair(prompts[prompt], images[chosen], images[rejected], *details))
        return pairs, left_out(others)

    def _images(self, session: Session, dataset: Dataset) -> dict[int, ImageFile]:
        paired = [
            select(column).where(Pair.dataset_id == dataset.id, Pair.answers > 0)
            for column in (Pair.first_id, Pair.second_id)
        ]
        columns = (ImageRecord.id, ImageRecord.sha256, ImageRecord.ending, ImageRecord.width, ImageRecord.height)
        rows = session.execute(select(*columns).where(or_(*(ImageRecord.id.in_(ids) for ids in paired))))
        images = {}
        for number, *columns_of_file in rows:
            stored = StoredFile(*columns_of_file)
            path = image_path(self.store, stored)
            label = "/".join(path.parts[-3:])
            images[number] = ImageFile(path, label, stored.sha256, (stored.width, stored.height))
        return images


def _prompts(session: Session, dataset: Dataset) -> dict[int, str]:
    return dict(session.execute(select(Prompt.id, Prompt.text).where(Prompt.dataset_id == dataset.id)).all())


def captions_of(session: Session, dataset: int) -> dict[tuple[int, int], str]:
    """The own captions of candidates, by (prompt id, image id)."""
    columns = (Candidate.prompt_id, Candidate.picture_id, Candidate.caption)
    here = (Prompt.dataset_id == dataset, Candidate.caption.is_not(None))
    rows = session.execute(select(*columns).join(Prompt, Prompt.id == Candidate.prompt_id).where(*here))
    return {(prompt, image): caption for prompt, image, caption in rows}


def rankings_of(session: Session, dataset: int) -> dict[int, str]:
    """By pair id, the name of its first standing ranking."""
    rows = session.execute(
        select(Judgement.pair_id, Judgement.client, Judgement.sequence)
        .join(Pair, Pair.id == Judgement.pair_id)
        .outerjoin(_UNDOING, _UNDOING.undoes == Judgement.id)
        # As text: SQLite does not look into an index of rankings for a bound value.
        .where(text(f"judgements.{IS_RANKING}"), Judgement.answer != "undo", _UNDOING.id.is_(None))
        .where(Pair.dataset_id == dataset)
        .order_by(Judgement.id.desc())
    )
    return {pair: f"{client}/{sequence}" for pair, client, sequence in rows}


def _unjudged(session: Session, dataset: Dataset) -> int:
    """Pairs without a vote, those included that were only skipped."""
    counted = select(func.count()).where(Pair.dataset_id == dataset.id, Pair.answers == 0)
    return session.scalar(counted) or 0

"""What are the pairs of a training like: of how many prompts, how sure, judged by whom and how? Numbers for its report.

Counted as the training begins: a dataset grows afterwards.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlalchemy.orm import aliased

from .datasets import find_dataset
from .pairs import Split, dataset_named
from .schema import Annotator, Dataset, Judgement, Pair
from .statistics import statistics_of
from .store import open_store

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_UNDOING = aliased(Judgement)


def data_facts(source: str, workspace: Path, split: Split) -> dict[str, Any]:
    """Of the pairs that `source` (as in DataConfig.pairs) came to, as plain values.

    prompts, held_out_prompts; most_of_a_prompt: pairs of the prompt that has the most; contested: pairs whose
    judgements do not all fall on one side; weighted: pairs with another weight than 1. Of a dataset also judgements:
    how often each answer stands, strengths: how clearly a side was taken, judges, repeated: pairs that somebody was
    shown again, repeated_alike: those answered alike.
    """
    every = (*split.train, *split.held_out)
    a_prompt = Counter(pair.prompt for pair in every)
    facts: dict[str, Any] = {
        "prompts": len({pair.prompt for pair in split.train}),
        "held_out_prompts": len({pair.prompt for pair in split.held_out}),
        "most_of_a_prompt": max(a_prompt.values(), default=0),
        "contested": sum(pair.preference < 1 for pair in every),
        "weighted": sum(pair.weight != 1 for pair in every),
    }
    if (name := dataset_named(source)) is not None:
        with open_store(workspace).reading() as session:
            facts |= _judging(session, find_dataset(session, name))
    return facts


def _judging(session: Session, dataset: Dataset) -> dict[str, Any]:
    standing = (
        select(Judgement.answer, Judgement.strength, func.count())
        .join(Pair, Pair.id == Judgement.pair_id)
        .outerjoin(_UNDOING, _UNDOING.undoes == Judgement.id)
        .where(Pair.dataset_id == dataset.id, Judgement.answer != "undo", _UNDOING.id.is_(None))
        .group_by(Judgement.answer, Judgement.strength)
    )
    answers, strengths = Counter[str](), Counter[str]()
    for answer, strength, count in session.execute(standing):
        sided = answer in ("left", "right")
        answers["one side" if sided else answer] += count
        if sided:
            strengths[strength] += count
    judges = session.scalars(
        select(Annotator.name)
        .join(Judgement, Judgement.annotator_id == Annotator.id)
        .join(Pair, Pair.id == Judgement.pair_id)
        .where(Pair.dataset_id == dataset.id)
        .distinct()
    ).all()
    repeated = [statistics_of(session, dataset, judge) for judge in judges]
    return {
        "judgements": dict(answers),
        "strengths": dict(strengths),
        "judges": len(judges),
        "repeated": sum(one.repeated for one in repeated),
        "repeated_alike": sum(round((one.self_agreement or 0) * one.repeated) for one in repeated),
    }

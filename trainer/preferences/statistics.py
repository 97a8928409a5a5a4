"""Statistics of judgements: how far is the judging of a dataset, how steady are the answers, what is trained on?"""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session, aliased

from ..config.dataset_uri import dataset_named
from ..intervals import wilson_interval
from ..text import format_percent
from .annotator_history import BOTH_BAD, SIDED, SKIP, TIE, History, history_of
from .datasets import find_dataset
from .pairs import Split
from .schema import HAS_PREFERENCE, Annotator, Dataset, Judgement, Pair, Prompt
from .store import open_store

ENOUGH_FOR_A_FIRST_LORA = 100
"""Pairs with a preference. A starting rule that no real model has confirmed yet: the demo's tiny base learns a clear
taste from the 160 pairs that it trains on (docs/benchmarks.md), and of 100 pairs about ten are held out, which is the
least that says anything about agreement."""

_PACE_JUDGEMENTS = 50
_MIN_FOR_PACE = 5
_MIN_REPEATS = 5
_FEW_REPEATS = 50
"""Below it the interval of a share is so wide that it is shown."""
_MAX_SHARED = 1000
_MIN_SECONDS = 0.05
_UNDOING = aliased(Judgement)  # to build it anew takes longer than the query


@dataclass(frozen=True)
class Statistics:
    """Of one annotator in one dataset; `trainable` and what is held out are everybody's.

    judged: pairs that the annotator judged, skips not counted; waiting: pairs not seen; today: judgements
    since midnight. pace_per_minute: from the median seconds of the newest judgements; None for too few.
    repeated: pairs that were shown again; self_agreement: share of them answered alike, low and high its 95 % interval.
    shared: pairs, of the first thousand with several judgements, that several people judged; agreement: share of them
    on which two agree. ties, both_bad, skips: judgements. left_share: of the judgements for either side, those for the
    left. trainable: pairs with a preference; held_out_pairs: those of them that are never trained on; assumed: those
    that no person judged.
    """

    judged: int
    waiting: int
    pairs: int
    prompts: int
    today: int
    pace_per_minute: float | None
    repeated: int
    self_agreement: float | None
    self_agreement_low: float | None
    self_agreement_high: float | None
    shared: int
    agreement: float | None
    ties: int
    both_bad: int
    skips: int
    left_share: float | None
    trainable: int
    held_out_pairs: int
    held_out_prompts: int
    is_comparison: bool
    assumed: int = 0

    @property
    def sentence(self) -> str:
        """How far the judging is and what comes next, in plain words."""
        sentences = [self._progress]
        if self.self_agreement is not None and self.repeated >= _MIN_REPEATS:
            sentences.append(self._steadiness)
        if self.assumed:
            sentences.append(f"of {self.assumed} pairs the preference was assumed: nobody compared their pictures")
        return " ".join(f"{one[0].upper()}{one[1:]}." for one in sentences)

    @property
    def _progress(self) -> str:
        if not self.pairs:
            return "no pairs are here yet: collect pictures first"
        if self.is_comparison:
            return f"all {self.judged} judged" if not self.waiting else f"{self.judged} of {self.pairs} judged"
        done = (
            f"all {self.judged} judged" if not self.waiting and self.judged == self.pairs else f"{self.judged} judged"
        )
        if self.trainable > self.judged:
            done += f" by you, {self.trainable} pairs have a preference"
        missing = ENOUGH_FOR_A_FIRST_LORA - self.trainable
        if missing <= 0:
            more = "; more make it steadier" if self.waiting else ""
            return f"{done}: enough for a first LoRA{more}"
        if self.waiting:
            return f"{done}, about {_rounded(missing)} more until a first LoRA is worth training"
        return f"{done}, nothing is left: collect about {_rounded(missing)} more pairs for a first LoRA"

    @property
    def _steadiness(self) -> str:
        assert self.self_agreement is not None
        sentence = f"you agree with yourself on {format_percent(self.self_agreement)} of {self.repeated} repeated pairs"
        if self.repeated < _FEW_REPEATS:
            low, high = self.self_agreement_low, self.self_agreement_high
            sentence += f" (so few tell: between {format_percent(low)} and {format_percent(high)})"
        return sentence


def statistics_of(session: Session, dataset: Dataset, annotator: str) -> Statistics:
    """The statistics of `annotator` in a dataset."""
    with history_of(session, dataset.id, annotator) as history:
        alike = [now == before for before, now in history.repeats.values() if now != SKIP]
        low, high = wilson_interval(sum(alike), len(alike))
        shared, agreement = _between_people(session, dataset)
        held_out = (Prompt.dataset_id == dataset.id, Prompt.split_hash < dataset.held_out)
        has_preference = (Pair.dataset_id == dataset.id, text(HAS_PREFERENCE))
        return Statistics(
            judged=history.judged,
            waiting=history.waiting,
            pairs=history.pairs,
            prompts=_count(session, select(func.count()).where(Prompt.dataset_id == dataset.id)),
            today=history.today,
            pace_per_minute=_pace(history),
            repeated=len(alike),
            self_agreement=sum(alike) / len(alike) if alike else None,
            self_agreement_low=low if alike else None,
            self_agreement_high=high if alike else None,
            shared=shared,
            agreement=agreement,
            ties=history.counts[TIE],
            both_bad=history.counts[BOTH_BAD],
            skips=history.counts[SKIP],
            left_share=history.left / history.sided if history.sided else None,
            trainable=_count(session, select(func.count()).select_from(Pair).where(*has_preference)),
            held_out_pairs=_count(
                session,
                select(func.count())
                .select_from(Pair)
                .where(*has_preference, Pair.prompt_id.in_(select(Prompt.id).where(*held_out))),
            ),
            held_out_prompts=_count(session, select(func.count()).where(*held_out)),
            is_comparison=dataset.kind == "comparison",
            assumed=_count(session, select(func.count()).select_from(Pair).where(*has_preference, Pair.assumed)),
        )


def data_facts(source: str, workspace: Path, split: Split) -> dict[str, Any]:
    """What the pairs of a training are like, as plain values for its report. source: as in DataConfig.pairs.

    Counted as the training begins: a dataset grows afterwards.

    prompts, held_out_prompts; most_of_a_prompt: pairs of the prompt that has the most; contested: pairs whose
    judgements do not all fall on one side; weighted: pairs with another weight than 1. Of a dataset also judgements:
    how often each answer stands, strengths: how clearly a side was taken, judges, repeated: pairs that somebody was
    shown again, repeated_alike: those answered alike.
    """
    pairs = (*split.train, *split.held_out)
    per_prompt = Counter(pair.prompt for pair in pairs)
    facts: dict[str, Any] = {
        "prompts": len({pair.prompt for pair in split.train}),
        "held_out_prompts": len({pair.prompt for pair in split.held_out}),
        "most_of_a_prompt": max(per_prompt.values(), default=0),
        "contested": sum(pair.preference < 1 for pair in pairs),
        "weighted": sum(pair.weight != 1 for pair in pairs),
    }
    if (name := dataset_named(source)) is not None:
        with open_store(workspace).reading() as session:
            facts |= _judgement_facts(session, find_dataset(session, name))
    return facts


def _count(session: Session, counting: object) -> int:
    return session.scalar(counting) or 0  # type: ignore[call-overload]


def _pace(history: History) -> float | None:
    """Judgements a minute."""
    seconds = [one.seconds for one in history.recent if one.seconds is not None and one.purpose in SIDED]
    if len(seconds) < _MIN_FOR_PACE:
        return None
    return 60 / max(_MIN_SECONDS, statistics.median(seconds[-_PACE_JUDGEMENTS:]))


def _between_people(session: Session, dataset: Dataset) -> tuple[int, float | None]:
    """How many pairs several people judged, of the first thousand with several answers, and how far they agree."""
    several = select(Pair.id).where(Pair.dataset_id == dataset.id, Pair.answers >= 2).limit(_MAX_SHARED)
    rows = session.execute(
        select(Judgement.pair_id, Judgement.annotator_id, Judgement.answer, Judgement.first_on_left)
        .outerjoin(_UNDOING, _UNDOING.undoes == Judgement.id)
        .where(Judgement.pair_id.in_(several), _UNDOING.id.is_(None))
        .where(Judgement.answer.not_in(("undo", "skip")), Judgement.purpose.not_in(("repeat", "import")))
        .order_by(Judgement.id)
    )
    verdicts: dict[int, dict[int, str | bool]] = {}
    for pair, person, answer, first_on_left in rows:
        sided = answer in ("left", "right")
        verdicts.setdefault(pair, {})[person] = ((answer == "left") == first_on_left) if sided else answer
    shares = [
        statistics.fmean(one == other for one, other in combinations(answers.values(), 2))
        for answers in verdicts.values()
        if len(answers) > 1
    ]
    return len(shares), statistics.fmean(shares) if shares else None


def _rounded(number: int) -> int:
    """No more exact than it is known; never less."""
    return number if number <= 10 else -(-number // 10) * 10


def _judgement_facts(session: Session, dataset: Dataset) -> dict[str, Any]:
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
    annotators = session.scalars(
        select(Annotator.name)
        .join(Judgement, Judgement.annotator_id == Annotator.id)
        .join(Pair, Pair.id == Judgement.pair_id)
        .where(Pair.dataset_id == dataset.id)
        .distinct()
    ).all()
    repeats = [statistics_of(session, dataset, annotator) for annotator in annotators]
    return {
        "judgements": dict(answers),
        "strengths": dict(strengths),
        "judges": len(annotators),
        "repeated": sum(one.repeated for one in repeats),
        "repeated_alike": sum(round((one.self_agreement or 0) * one.repeated) for one in repeats),
    }

"""What is a comparison, what was said about it, and how do its judgements get into a dataset?"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import func, select
from sqlalchemy.orm import aliased

from ..errors import UserError
from ..preferences.datasets import add_candidates, add_pair, add_prompt
from ..preferences.judgements import Answer, answer, undo
from ..preferences.schema import Annotator, Candidate, Dataset, ImageRecord, Judgement, Pair, Prompt
from .win_rate import Outcome, WinRate, win_rate

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@dataclass(frozen=True)
class About:
    """What a comparison is of. lora, against: names of the files, against is empty for the base alone.

    Hashes are SHA-256. dataset: what the LoRA was trained on, empty where nobody said. task: the name of the task that
    paints it. fed_back: the dataset that its judgements were added to. schedule: in words, how the LoRA's strength
    changes over the steps; empty where it does not.
    """

    run: str
    base: str
    lora: str
    lora_sha256: str
    against: str
    against_sha256: str
    strength: float
    dataset: str
    task: str
    fed_back: str = ""
    schedule: str = ""

    @property
    def other(self) -> str:
        """What the LoRA is compared with, as a sentence says it."""
        return self.against.removesuffix(".safetensors") or "the base"

    def written(self) -> str:
        """As `Dataset.about` keeps it."""
        return json.dumps(asdict(self), ensure_ascii=False)


@dataclass(frozen=True)
class Standing:
    """How a comparison stands. pairs: that are painted; judged: those that somebody answered; rate: all answers."""

    pairs: int
    judged: int
    rate: WinRate


@dataclass(frozen=True)
class Duel:
    """One pair of a comparison, unblinded. votes: for the LoRA, in [0, 1]; None where there is none."""

    prompt: str
    other: ImageRecord
    lora: ImageRecord
    votes: float | None


def about(comparison: Dataset) -> About:
    """What `comparison` is of. Raises UserError where it is none."""
    try:
        if comparison.kind != "comparison":
            raise ValueError
        return About(**json.loads(comparison.about))
    except (ValueError, TypeError):
        raise UserError(f"{comparison.name} is no comparison: choose one that was painted here") from None


def standing(session: Session, comparison: Dataset) -> Standing:
    """What the answers add up to so far. Skips are no answers; those that were taken back are not counted."""
    counts = select(func.count(), func.count().filter(Pair.answers > 0)).where(Pair.dataset_id == comparison.id)
    pairs, judged = session.execute(counts).one()
    first = aliased(Candidate)
    said = (
        select(Pair.prompt_id, Judgement.answer, Judgement.first_on_left, first.arm)
        .join(Pair, Pair.id == Judgement.pair_id)
        .join(first, (first.prompt_id == Pair.prompt_id) & (first.picture_id == Pair.first_id))
        .where(Pair.dataset_id == comparison.id, Judgement.answer.not_in(("undo", "skip")))
        .where(~select(_Undo.id).where(_Undo.undoes == Judgement.id).exists())
        .order_by(Judgement.id)
    )
    outcomes = [
        (prompt, _outcome(given, lora_on_left=on_left == (arm == "lora")))
        for prompt, given, on_left, arm in session.execute(said)
    ]
    return Standing(pairs, judged, win_rate(outcomes))


def newest_answer(session: Session) -> int:
    """The number of the last thing that was said about any comparison, an undo too; 0 where nothing was."""
    said = select(func.max(Judgement.id)).join(Pair, Pair.id == Judgement.pair_id)
    said = said.join(Dataset, Dataset.id == Pair.dataset_id).where(Dataset.kind == "comparison")
    return session.scalar(said) or 0


def duels(session: Session, comparison: Dataset) -> list[Duel]:
    """Every pair, both pictures by what painted them, in the order of painting."""
    first, second, arm = aliased(ImageRecord), aliased(ImageRecord), aliased(Candidate)
    found = (
        select(Pair, Prompt.text, first, second, arm.arm)
        .join(Prompt, Prompt.id == Pair.prompt_id)
        .join(first, first.id == Pair.first_id)
        .join(second, second.id == Pair.second_id)
        .join(arm, (arm.prompt_id == Pair.prompt_id) & (arm.picture_id == Pair.first_id))
        .where(Pair.dataset_id == comparison.id)
        .order_by(Pair.id)
    )
    unblinded = []
    for pair, prompt, one, two, arm_of_one in session.execute(found):
        share = pair.votes_first / pair.votes if pair.votes else None
        if arm_of_one == "lora":
            unblinded.append(Duel(prompt, two, one, share))
        else:
            unblinded.append(Duel(prompt, one, two, None if share is None else 1 - share))
    return unblinded


def feed_back(session: Session, comparison: Dataset, dataset: Dataset) -> int:
    """Add the pairs of `comparison` that were judged, and what was said of them, to `dataset` to train on.

    Its pairs are marked with where they are from. Doing so again adds only what was said or taken back since; prompts
    that `dataset` holds out stay held out, as that hangs on their text. Returns how many judgements are new.
    """
    if dataset.kind != "pairs":
        raise UserError(f"{dataset.name} is a comparison itself: choose a dataset that is trained on")
    told = about(comparison)
    rows = (
        select(Judgement, Annotator.name)
        .join(Annotator, Annotator.id == Judgement.annotator_id)
        .join(Pair, Pair.id == Judgement.pair_id)
        .where(Pair.dataset_id == comparison.id)
        .order_by(Judgement.id)
    )
    client = f"comparison:{comparison.id}"
    added, copies = 0, dict[int, tuple[Pair, str, str]]()
    for said, annotator in session.execute(rows).all():
        if said.pair_id not in copies:
            copies[said.pair_id] = _copied(session, session.get_one(Pair, said.pair_id), comparison, dataset)
        pair, first, second = copies[said.pair_id]
        if said.undoes is not None:
            undo(session, annotator, client, said.id, said.undoes)
            continue
        left = first if said.first_on_left else second
        added += answer(session, annotator, Answer.copy_of(said, pair.id, left, client, "compare"))
    comparison.about = replace(told, fed_back=dataset.name).written()
    return added


_Undo = aliased(Judgement)


def _copied(session: Session, pair: Pair, comparison: Dataset, dataset: Dataset) -> tuple[Pair, str, str]:
    """The pair as it is in `dataset`, and the names of the pictures that come first and second in the comparison's."""
    prompt = add_prompt(session, dataset, session.get_one(Prompt, pair.prompt_id).text)
    first, second = (session.get_one(ImageRecord, number) for number in (pair.first_id, pair.second_id))
    add_candidates(session, prompt, [first, second])
    copy = add_pair(session, dataset, prompt, first, second, source=f"comparison: {comparison.name}")
    return copy, first.sha256, second.sha256


def _outcome(given: str, lora_on_left: bool) -> Outcome:
    if given == "tie":
        return "tie"
    if given == "both_bad":
        return "neither"
    return "win" if (given == "left") == lora_on_left else "loss"

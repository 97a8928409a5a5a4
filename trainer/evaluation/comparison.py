"""Blind comparison: what it is of, its images and pairs, its result, and its judgements on their way into a dataset.

What adds to one is to be called within `Store.writing`; what is there already is not added again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sqlalchemy import func, select
from sqlalchemy.orm import aliased

from ..errors import UserError
from ..preferences.datasets import add_candidates, add_pair, add_prompt, create_dataset
from ..preferences.judgements import Answer, answer, undo
from ..preferences.pairs import normalize_prompt
from ..preferences.schema import Annotator, Candidate, Dataset, ImageRecord, Judgement, Pair, Prompt
from .win_rate import Outcome, WinRate, win_rate

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_Undo = aliased(Judgement)

Side = Literal["base", "lora"]
"""What the candidates of a comparison have for their `arm`; "base" also where that is another LoRA."""


@dataclass(frozen=True)
class ComparisonInfo:
    """What a comparison is of. lora, against: names of the files, against is empty for the base alone.

    Hashes are SHA-256. dataset: what the LoRA was trained on, empty where nobody said. task: the name of the task that
    generates it. fed_back: the dataset that its judgements were added to. schedule: in words, how the LoRA's strength
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
class ComparisonResult:
    """How a comparison stands. pairs: that are generated; judged: those that somebody answered; rate: all answers."""

    pairs: int
    judged: int
    rate: WinRate


@dataclass(frozen=True)
class ComparisonPair:
    """One pair of a comparison, unblinded. votes: for the LoRA, in [0, 1]; None where there is none."""

    prompt: str
    other: ImageRecord
    lora: ImageRecord
    votes: float | None


def comparison_info(comparison: Dataset) -> ComparisonInfo:
    """What `comparison` is of. Raises UserError where it is none."""
    try:
        if comparison.kind != "comparison":
            raise ValueError
        return ComparisonInfo(**json.loads(comparison.about))
    except (ValueError, TypeError):
        raise UserError(f"{comparison.name} is no comparison: choose one that was painted here") from None


def comparison_result(session: Session, comparison: Dataset) -> ComparisonResult:
    """What the answers add up to so far. Skips are no answers; those that were taken back are not counted."""
    counts = select(func.count(), func.count().filter(Pair.answers > 0)).where(Pair.dataset_id == comparison.id)
    pairs, judged = session.execute(counts).one()
    first = aliased(Candidate)
    answers = (
        select(Pair.prompt_id, Judgement.answer, Judgement.first_on_left, first.arm)
        .join(Pair, Pair.id == Judgement.pair_id)
        .join(first, (first.prompt_id == Pair.prompt_id) & (first.picture_id == Pair.first_id))
        .where(Pair.dataset_id == comparison.id, Judgement.answer.not_in(("undo", "skip")))
        .where(~select(_Undo.id).where(_Undo.undoes == Judgement.id).exists())
        .order_by(Judgement.id)
    )
    outcomes = [
        (prompt, _outcome(answered, lora_on_left=on_left == (arm == "lora")))
        for prompt, answered, on_left, arm in session.execute(answers)
    ]
    return ComparisonResult(pairs, judged, win_rate(outcomes))


def newest_answer(session: Session) -> int:
    """The id of the last judgement of any comparison, an undo too; 0 where there is none."""
    newest = select(func.max(Judgement.id)).join(Pair, Pair.id == Judgement.pair_id)
    newest = newest.join(Dataset, Dataset.id == Pair.dataset_id).where(Dataset.kind == "comparison")
    return session.scalar(newest) or 0


def comparison_pairs(session: Session, comparison: Dataset) -> list[ComparisonPair]:
    """Every pair, both images by what generated them, in the order in which they were."""
    first, second, arm = aliased(ImageRecord), aliased(ImageRecord), aliased(Candidate)
    pairs = (
        select(Pair, Prompt.text, first, second, arm.arm)
        .join(Prompt, Prompt.id == Pair.prompt_id)
        .join(first, first.id == Pair.first_id)
        .join(second, second.id == Pair.second_id)
        .join(arm, (arm.prompt_id == Pair.prompt_id) & (arm.picture_id == Pair.first_id))
        .where(Pair.dataset_id == comparison.id)
        .order_by(Pair.id)
    )
    unblinded = []
    for pair, prompt, one, two, arm_of_one in session.execute(pairs):
        share = pair.votes_first / pair.votes if pair.votes else None
        if arm_of_one == "lora":
            unblinded.append(ComparisonPair(prompt, two, one, share))
        else:
            unblinded.append(ComparisonPair(prompt, one, two, None if share is None else 1 - share))
    return unblinded


def export_to_dataset(session: Session, comparison: Dataset, dataset: Dataset) -> int:
    """Add the pairs of `comparison` that were judged, and their judgements, to `dataset` to train on.

    Its pairs are marked with where they are from. Doing so again adds only what was judged or taken back since; prompts
    that `dataset` holds out stay held out, as that hangs on their text. Returns how many judgements are new.
    """
    if dataset.kind != "pairs":
        raise UserError(f"{dataset.name} is a comparison itself: choose a dataset that is trained on")
    info = comparison_info(comparison)
    rows = (
        select(Judgement, Annotator.name)
        .join(Annotator, Annotator.id == Judgement.annotator_id)
        .join(Pair, Pair.id == Judgement.pair_id)
        .where(Pair.dataset_id == comparison.id)
        .order_by(Judgement.id)
    )
    client = f"comparison:{comparison.id}"
    added, copies = 0, dict[int, tuple[Pair, str, str]]()
    for judgement, annotator in session.execute(rows).all():
        if judgement.pair_id not in copies:
            copies[judgement.pair_id] = _copy_pair(
                session, session.get_one(Pair, judgement.pair_id), comparison, dataset
            )
        pair, first, second = copies[judgement.pair_id]
        if judgement.undoes is not None:
            undo(session, annotator, client, judgement.id, judgement.undoes)
            continue
        left = first if judgement.first_on_left else second
        added += answer(session, annotator, Answer.copy_of(judgement, pair.id, left, client, "compare"))
    comparison.about = replace(info, fed_back=dataset.name).written()
    return added


def suggest_names(lora: str, against: str = "") -> Iterator[str]:
    """What a comparison may be called, best first. lora, against: files; against is empty for the base alone."""
    name = normalize_prompt(f"{Path(lora).stem} or {Path(against).stem if against else 'the base'}")[:190]
    yield name
    number = 1
    while True:
        number += 1
        yield f"{name} {number}"


def find_named(session: Session, name: str) -> Dataset | None:
    """The dataset or comparison of that name."""
    return session.scalar(select(Dataset).where(Dataset.name == normalize_prompt(name)))


def open_comparison(
    session: Session, name: str, info: ComparisonInfo, is_it: Callable[[ComparisonInfo], bool]
) -> Dataset:
    """The comparison of that name, new where there is none. Raises UserError where what is there is another one.

    info: what a new one is of. is_it: whether one of this name that is about something goes on here.
    """
    there = find_named(session, name)
    if there is None:
        return create_dataset(session, name, held_out=0.0, kind="comparison", about=info.written())
    if there.kind != "comparison" or not is_it(comparison_info(there)):
        raise UserError(f"there is a dataset or comparison named {there.name}: start again under another name")
    return there


def continue_comparison(session: Session, name: str, info: ComparisonInfo) -> Dataset:
    """The comparison in which these two sides, as `info` says, have met, or meet first. name: empty for a new name.

    Raises UserError where `name` is another's: of another LoRA, another strength or schedule of it, or no comparison.
    """

    def is_same(there: ComparisonInfo) -> bool:
        return _sides(there) == _sides(info)

    if normalize_prompt(name):
        there = find_named(session, name)
        if there is not None and there.kind == "comparison" and not is_same(comparison_info(there)):
            raise UserError(
                f"{there.name} compares {_describe(comparison_info(there))}, not {_describe(info)}: "
                "give this one another name, or none"
            )
        return open_comparison(session, name, info, is_same)
    for free in suggest_names(info.lora, info.against):
        there = find_named(session, free)
        if there is None or (there.kind == "comparison" and is_same(comparison_info(there))):
            return open_comparison(session, free, info, is_same)
    raise AssertionError("suggest_names never ends")


def add_comparison_image(session: Session, comparison: Dataset, prompt: str, image: ImageRecord, side: Side) -> None:
    """Add an image that was generated for a prompt."""
    add_candidates(session, add_prompt(session, comparison, prompt), [image], side)


def add_comparison_pair(
    session: Session, comparison: Dataset, prompt: str, other: ImageRecord, lora: ImageRecord
) -> Pair:
    """Pair two images of the same prompt and seed, both added before."""
    return add_pair(session, comparison, add_prompt(session, comparison, prompt), other, lora)


def _sides(info: ComparisonInfo) -> tuple[str, str, str, float, str]:
    """What two comparisons have in common that are of the same. A file is known by its content, not by its name."""
    return (info.base, info.lora_sha256 or info.lora, info.against_sha256 or info.against, info.strength, info.schedule)


def _describe(info: ComparisonInfo) -> str:
    return f"{Path(info.lora).stem} at {info.strength:g}{info.schedule and f', {info.schedule},'} with {info.other}"


def _outcome(answered: str, lora_on_left: bool) -> Outcome:
    if answered == "tie":
        return "tie"
    if answered == "both_bad":
        return "neither"
    return "win" if (answered == "left") == lora_on_left else "loss"


def _copy_pair(session: Session, pair: Pair, comparison: Dataset, dataset: Dataset) -> tuple[Pair, str, str]:
    """The pair as it is in `dataset`, and the names of the images that come first and second in the comparison's."""
    prompt = add_prompt(session, dataset, session.get_one(Prompt, pair.prompt_id).text)
    first, second = (session.get_one(ImageRecord, number) for number in (pair.first_id, pair.second_id))
    add_candidates(session, prompt, [first, second])
    copy = add_pair(session, dataset, prompt, first, second, source=f"comparison: {comparison.name}")
    return copy, first.sha256, second.sha256

"""Dataset overview: its newest preferences on one sheet, and how far it is in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from sqlalchemy import select, text
from sqlalchemy.orm import aliased

from ..errors import UserError
from ..images.contact_sheet import grid, notice
from ..images.decode import decode_image
from ..preferences.images import image_path
from ..preferences.schema import HAS_PREFERENCE, Dataset, ImageRecord, Pair, Prompt
from ..preferences.statistics import Statistics
from ..preferences.store import Store
from ..text import format_count, format_percent

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_ROWS, _A_ROW = 4, 2
_CELL = 320
_NOTHING = "No pair of {name} has a preference yet: judge some, and the newest are shown here."


def newest(session: Session, store: Store, dataset: Dataset) -> list[tuple[str, Path, Path]]:
    """(prompt, chosen, rejected) of the newest pairs of `dataset` that have a preference, as many as a sheet holds."""
    first, second = aliased(ImageRecord), aliased(ImageRecord)
    rows = session.execute(
        select(Pair.votes_first * 2 > Pair.votes, Prompt.text, first, second)
        .join(Prompt, Prompt.id == Pair.prompt_id)
        .join(first, first.id == Pair.first_id)
        .join(second, second.id == Pair.second_id)
        .where(Pair.dataset_id == dataset.id, text(HAS_PREFERENCE))
        .order_by(Pair.id.desc())
        .limit(_ROWS * _A_ROW)
    )
    return [
        (prompt, *(image_path(store, one) for one in ((a, b) if for_first else (b, a))))
        for for_first, prompt, a, b in rows
    ]


def contact_sheet(name: str, pairs: Sequence[tuple[str, Path, Path]]) -> Image.Image:
    """Chosen beside rejected, two pairs in a row, prompts below. The field of a picture that is gone is empty."""
    rows, captions = [], []
    for start in range(0, len(pairs), _A_ROW):
        some = pairs[start : start + _A_ROW]
        rows.append([_opened(file) for _, *files in some for file in files])
        captions.append("   |   ".join(dict.fromkeys(prompt for prompt, _, _ in some)))
    if not any(picture for row in rows for picture in row):
        return notice(_NOTHING.format(name=name))
    return grid(rows, captions, ("chosen", "rejected") * min(_A_ROW, len(pairs)), _CELL)


def in_words(name: str, now: Statistics) -> str:
    """How far the judging is, how sure the answers are, and what is trained on, a line each."""
    lines = [
        f"{name}: {now.sentence}",
        f"{format_count(now.pairs, 'pair')} of {format_count(now.prompts, 'prompt')}; "
        f"{now.judged} judged by you, {now.waiting} waiting",
        f"{now.trainable} with a preference: {now.trainable - now.held_out_pairs} to train on, "
        f"{now.held_out_pairs} kept aside to measure with",
        f"{now.ties} ties, {now.both_bad} times both bad, {now.skips} skipped",
    ]
    if now.self_agreement is not None:
        lines.append(
            f"agreement with yourself: {format_percent(now.self_agreement)} of {now.repeated} pairs shown again"
        )
    if now.agreement is not None:
        lines.append(
            f"agreement between people: {format_percent(now.agreement)} of {now.shared} pairs that several judged"
        )
    return "\n".join(lines)


def _opened(file: Path) -> Image.Image | None:
    try:
        return decode_image(file.read_bytes(), file.name)
    except (OSError, UserError):
        return None

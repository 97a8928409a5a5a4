"""How do comparisons look on one sheet: the same prompt and noise in each row, the base and each LoRA in a column?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..errors import UserError
from ..images.contact_sheet import grid
from ..preferences.datasets import find_dataset
from ..preferences.images import image_path
from ..preferences.store import Store
from .comparison import comparison_info, comparison_pairs

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_CELL = 384
MOST_ROWS = 24
"""A sheet that is longer than this is looked at by nobody; all pictures are in the comparison."""


def grid_of(session: Session, store: Store, names: Sequence[str]) -> Image.Image:
    """The comparisons of these names on one sheet, at most MOST_ROWS rows. Unblinded: judge first.

    Raises UserError where there is no such comparison, or none of its pictures is there any more.
    """
    rows: dict[tuple[str, str], dict[str, Path]] = {}
    columns: dict[str, str] = {}
    for name in names:
        comparison = find_dataset(session, name)
        told = comparison_info(comparison)
        # Two files may have one name: they are known by their content.
        other, lora = told.against_sha256 or told.other, told.lora_sha256 or told.lora
        columns |= {other: told.other, lora: told.lora.removesuffix(".safetensors")}
        for duel in comparison_pairs(session, comparison):
            row = rows.setdefault((duel.prompt, duel.lora.seed or ""), {})
            row[other], row[lora] = (image_path(store, one) for one in (duel.other, duel.lora))
    shown = list(rows.items())[:MOST_ROWS]
    pictures = [[_opened(row.get(column)) for column in columns] for _, row in shown]
    if not any(picture for row in pictures for picture in row):
        raise UserError(f"no picture of {', '.join(names)} is there: paint it first")
    return grid(pictures, [prompt for (prompt, _), _ in shown], list(columns.values()), _CELL)


def _opened(file: Path | None) -> Image.Image | None:
    if file is None or not file.is_file():
        return None
    with Image.open(file) as opened:
        return opened.convert("RGB")

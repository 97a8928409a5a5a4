"""Comparison sheet: comparisons as one image, a prompt and noise in each row, the base and each LoRA in a column."""

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
MAX_ROWS = 24
"""A sheet that is longer than this is looked at by nobody; all images are in the comparison."""


def grid_of(session: Session, store: Store, names: Sequence[str]) -> Image.Image:
    """The comparisons of these names on one sheet, at most MAX_ROWS rows. Unblinded: judge first.

    Raises UserError where there is no such comparison, or none of its images is there any more.
    """
    rows: dict[tuple[str, str], dict[str, Path]] = {}
    columns: dict[str, str] = {}
    for name in names:
        comparison = find_dataset(session, name)
        info = comparison_info(comparison)
        # Two files may have one name: they are known by their content.
        other, lora = info.against_sha256 or info.other, info.lora_sha256 or info.lora
        columns |= {other: info.other, lora: info.lora.removesuffix(".safetensors")}
        for pair in comparison_pairs(session, comparison):
            row = rows.setdefault((pair.prompt, pair.lora.seed or ""), {})
            row[other], row[lora] = (image_path(store, one) for one in (pair.other, pair.lora))
    shown = list(rows.items())[:MAX_ROWS]
    images = [[_open_image(row.get(column)) for column in columns] for _, row in shown]
    if not any(image for row in images for image in row):
        raise UserError(f"no picture of {', '.join(names)} is there: paint it first")
    return grid(images, [prompt for (prompt, _), _ in shown], list(columns.values()), _CELL)


def _open_image(file: Path | None) -> Image.Image | None:
    if file is None or not file.is_file():
        return None
    with Image.open(file) as opened:
        return opened.convert("RGB")

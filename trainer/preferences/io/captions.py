"""Caption files: the prompt of images that have a text file beside them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ...errors import UserError
from ..pairs import normalize_prompt

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
CAPTION_ENDINGS = (".caption", ".txt")


def common_prompt(images: Iterable[Path]) -> str:
    """The prompt in the caption files of all `images` (paths; with any suffix). One caption is enough.

    Raises UserError where there is none, where two differ (the objectives compare images under one prompt), and for a
    caption that is no text.
    """
    captions = [caption for caption in map(read_caption, images) if caption is not None]
    if not captions:
        raise UserError(f"no caption beside either picture ({' or '.join(CAPTION_ENDINGS)})")
    if len({normalize_prompt(caption) for caption in captions}) > 1:
        raise UserError(
            "the captions of the two pictures differ; they need the same prompt (where each picture has "
            "its own caption, say `--rejected-captions own`)"
        )
    return captions[0]


def own_captions(chosen: Iterable[Path], rejected: Path) -> tuple[str, str | None]:
    """The prompt, and the caption of the rejected image where it differs.

    chosen: paths that the prompt may lie beside, in that order. Raises UserError where there is no caption at all,
    and for one that is no text.
    """
    prompt = next((caption for path in chosen if (caption := read_caption(path)) is not None), None)
    own = read_caption(rejected)
    if prompt is None:
        return common_prompt([rejected]), None
    return prompt, None if own is None or normalize_prompt(own) == normalize_prompt(prompt) else own


def read_caption(image: Path, endings: Iterable[str] = CAPTION_ENDINGS) -> str | None:
    """The text of the file that is named as the image but for its suffix; None where there is none."""
    for ending in endings:
        path = image.with_suffix(ending)
        try:
            return path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path.name} cannot be read: {error}") from error
    return None


def is_image(path: Path) -> bool:
    """By its suffix. What begins with a dot is no image: macOS leaves ``._x.png`` beside ``x.png``."""
    return path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith(".")


def images_below(folder: Path) -> Iterator[Path]:
    """Every image in `folder` and its subfolders in the order of their paths; links to folders are not followed."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (path for path in map(Path(place).joinpath, sorted(files)) if is_image(path))

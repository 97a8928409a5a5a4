"""Contact sheets: several images on one, with captions, to compare them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import zip_longest

from PIL import Image, ImageDraw, ImageFont

_BACKGROUND = (24, 24, 27)  # dark and neutral, so that it does not tint how the images look
_TITLE = (244, 244, 245)
_TEXT = (190, 190, 196)
_EMPTY = (39, 39, 42)
_MAX_LINES = 3

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def grid(
    rows: Sequence[Sequence[Image.Image | None]],
    captions: Sequence[str] = (),
    header: Sequence[str] = (),
    cell: int = 512,
) -> Image.Image:
    """A contact sheet: one row for each of `rows`, its caption under it, `header` over the columns.

    rows: images of any sizes; None, or a row that is too short, leaves a field empty. cell: longest side of an image
    on the sheet, in pixels. Larger ones are shrunk; smaller ones are enlarged by a whole factor, and from a factor of 3
    on by nearest neighbour, so that no blur appears which the model did not generate.

    Raises ValueError if there are no images.
    """
    fitted = [[image and _fit(image, cell) for image in row] for row in rows]
    images = [image for row in fitted for image in row if image]
    if not images:
        raise ValueError("a sheet needs at least one picture")
    columns = max(len(header), *(len(row) for row in fitted))
    width = max(image.width for image in images)
    gap, margin = max(6, width // 32), max(12, width // 16)
    title, text = (ImageFont.load_default(max(13, width // divisor)) for divisor in (20, 26))
    total = 2 * margin + columns * width + (columns - 1) * gap

    lines = [_wrapped(c, text, total - 2 * margin) for c, _ in zip_longest(captions[: len(rows)], rows, fillvalue="")]
    title_height = _line_height(title) + gap if header else 0
    heights = [max((p.height for p in row if p), default=width) for row in fitted]
    below = [gap // 2 + len(caption) * _line_height(text) if caption else 0 for caption in lines]
    height = 2 * margin + title_height + sum(heights) + sum(below) + (len(rows) - 1) * 2 * gap

    sheet = Image.new("RGB", (total, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    lefts = [margin + column * (width + gap) for column in range(columns)]
    for left, label in zip(lefts, header, strict=False):
        label = _cut(label, title, width)
        draw.text((left + (width - title.getlength(label)) / 2, margin), label, _TITLE, title)
    top = margin + title_height
    for row, row_height, caption, under in zip(fitted, heights, lines, below, strict=True):
        for left, image in zip_longest(lefts, row):
            if image:
                sheet.paste(image, (left + (width - image.width) // 2, top + (row_height - image.height) // 2))
            else:
                draw.rectangle((left, top, left + width - 1, top + row_height - 1), _EMPTY)
        for number, line in enumerate(caption):
            draw.text((margin, top + row_height + gap // 2 + number * _line_height(text)), line, _TEXT, text)
        top += row_height + under + 2 * gap
    return sheet


def notice(sentence: str, width: int = 768) -> Image.Image:
    """A sheet without images, with a sentence that tells why there are none."""
    font = ImageFont.load_default(max(13, width // 24))
    lines = _wrapped(sentence, font, width - width // 4)
    sheet = Image.new("RGB", (width, width // 2), _BACKGROUND)
    draw, top = ImageDraw.Draw(sheet), (width // 2 - len(lines) * _line_height(font)) // 2
    for number, line in enumerate(lines):
        draw.text(((width - font.getlength(line)) / 2, top + number * _line_height(font)), line, _TEXT, font)
    return sheet


def _fit(image: Image.Image, cell: int) -> Image.Image:
    image = image.convert("RGB")
    longest = max(image.size)
    if longest > cell:
        size = tuple(max(1, round(side * cell / longest)) for side in image.size)
        return image.resize(size, Image.Resampling.LANCZOS)
    factor = cell // longest
    if factor == 1:
        return image
    resample = Image.Resampling.NEAREST if factor >= 3 else Image.Resampling.LANCZOS
    return image.resize((image.width * factor, image.height * factor), resample)


def _wrapped(caption: str, font: Font, width: int) -> list[str]:
    lines: list[str] = []
    words = caption.split()
    while words and len(lines) < _MAX_LINES - 1:
        fits = max(
            1, bisect_left(range(len(words)), True, key=lambda n: font.getlength(" ".join(words[: n + 1])) > width)
        )
        lines.append(" ".join(words[:fits]))
        words = words[fits:]
    return [_cut(line, font, width) for line in (*lines, " ".join(words)) if line]


def _cut(line: str, font: Font, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    fits = bisect_left(range(len(line)), True, key=lambda n: font.getlength(line[: n + 1] + "...") > width)
    return line[:fits].rstrip() + "..."


def _line_height(font: Font) -> int:
    return round(font.getbbox("Ågjp|")[3] * 1.25)

"""Charts as pixels, for a host that shows images and no pages: dark, side by side, readable small."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageColor, ImageDraw, ImageFont

from .charts import MAX_DOTS, NOTHING_MEASURED, Box, Chart, Course, Plot, Point, lay_out

_BACKGROUND = "#18181b"  # as contact_sheet._BACKGROUND
_PANEL = "#1f1f23"
_TITLE = "#f4f4f5"
_TEXT = "#bebec4"
_GRID = "#34343a"
_GUIDE = "#8b8b93"
_TONES = {"one": "#5ab2ff", "two": "#ff8f6b", "three": "#c79bff"}
_FAINT, _FAINTEST = 0.3, 0.15
_FINER = 2
"""Drawn so many times larger and scaled down: Pillow's lines have steps, and in a small image they are seen."""


def draw_image(charts: Sequence[Chart], steps: int, size: tuple[int, int] = (1024, 512)) -> Image.Image:
    """`charts` beside each other over 0 to `steps`, an RGB image of `size` pixels.

    One that has nothing to show yet says so in its place.
    """
    width, height = size
    sheet = Image.new("RGB", (width * _FINER, height * _FINER), _BACKGROUND)
    gap = 0.02 * sheet.height
    each = (sheet.width - gap) / len(charts)
    for number, chart in enumerate(charts):
        _panel(sheet, chart, steps, (gap + number * each, gap, (number + 1) * each, sheet.height - gap))
    return sheet.resize(size, Image.Resampling.LANCZOS)


def _panel(sheet: Image.Image, chart: Chart, steps: int, box: Box) -> None:
    left, top, right, bottom = box
    unit = (bottom - top) / 100
    pen = ImageDraw.Draw(sheet)
    pen.rounded_rectangle(box, radius=2.5 * unit, fill=_PANEL)
    pen.text((left + 5 * unit, top + 4 * unit), chart.title, _TITLE, ImageFont.load_default(5.2 * unit))
    layout = lay_out(chart, steps)
    if layout is None:
        middle = ((left + right) / 2, (top + bottom) / 2)
        pen.text(middle, NOTHING_MEASURED, _TEXT, ImageFont.load_default(4.4 * unit), anchor="mm")
        return
    inner = (left + 17 * unit, top + 17 * unit, right - 15 * unit, bottom - 15 * unit)
    drawing = _Drawing(pen, unit, Plot(layout, inner, 3 * unit, 2 * unit))
    drawing.axes()
    drawing.band()
    if chart.guide:
        drawing.guide(*chart.guide)
    for course in layout.courses:
        drawing.course(course)
    drawing.end_labels()


@dataclass(frozen=True)
class _Drawing:
    """What is between the axes. unit: a hundredth of the panel's height, in pixels."""

    pen: ImageDraw.ImageDraw
    unit: float
    plot: Plot

    def axes(self) -> None:
        left, _, right, bottom = self.plot.box
        for tick, label in self.plot.layout.up:
            y = self.plot.y(tick)
            self._stroke([(left, y), (right, y)], _GRID, 0.3)
            self._write((left - 2 * self.unit, y), label, _TEXT, 4, "rm")
        for tick, label in self.plot.layout.across:
            self._write((self.plot.x(tick), bottom + 2.5 * self.unit), label, _TEXT, 4, "ma")
        along = self.plot.layout.chart.along
        self._write(((left + right) / 2, bottom + 8.5 * self.unit), along, _TEXT, 4, "ma")

    def band(self) -> None:
        band = self.plot.layout.band
        if len(band) == 1:
            x, low, high = band[0]
            ends = [self.plot.at((x, low)), self.plot.at((x, high))]
            self._stroke(ends, _mixed(_TONES["one"], _FAINT), 2)
        elif band:
            edge = [self.plot.at(point) for point in self.plot.layout.band_edge]
            self.pen.polygon(edge, _mixed(_TONES["one"], _FAINTEST))

    def guide(self, height: float, words: str) -> None:
        left, _, right, _ = self.plot.box
        y, dash = self.plot.y(height), 2 * self.unit
        for number in range(0, int((right - left) / dash) + 1, 2):
            x = left + number * dash
            self._stroke([(x, y), (min(x + dash, right), y)], _GUIDE, 0.4)
        below = self.plot.layout.has_room_below(height)
        words_at = (right, y + (1 if below else -1) * self.unit)
        self._write(words_at, words, _GUIDE, 3.6, "ra" if below else "rd")

    def course(self, course: Course) -> None:
        tone, smooth = _TONES[course.line.tone], course.smooth
        if course.has_pale_points:
            self._stroke(map(self.plot.at, course.points), _mixed(tone, _FAINT), 0.35)
        self._stroke(map(self.plot.at, smooth), tone, 0.9)
        dots = smooth if len(smooth) <= (2 if course.line.rough else MAX_DOTS) else ()
        for point in dots:
            self.pen.circle(self.plot.at(point), 1.2 * self.unit, tone)

    def end_labels(self) -> None:
        """The last value of each line beside its end, the labels kept apart and within the panel."""
        for line, x, y, value in self.plot.end_labels(6 * self.unit):
            width = ImageFont.load_default(4.6 * self.unit).getlength(value)
            furthest = self.plot.box[2] + 14 * self.unit - width
            self._write((min(x + 2.5 * self.unit, furthest), y), value, _TONES[line.tone], 4.6, "lm")

    def _stroke(self, points: Iterable[Point], colour: str | tuple[int, int, int], width: float) -> None:
        self.pen.line(list(points), colour, max(1, round(width * self.unit)), joint="curve")

    def _write(self, at: Point, words: str, colour: str, size: float, anchor: str) -> None:
        self.pen.text(at, words, colour, ImageFont.load_default(size * self.unit), anchor=anchor)


def _mixed(colour: str, share: float) -> tuple[int, int, int]:
    """`colour` at `share` over a panel: a polygon of Pillow's covers what is below it."""
    red, green, blue = (
        round(share * over + (1 - share) * under)
        for over, under in zip(ImageColor.getrgb(colour), ImageColor.getrgb(_PANEL), strict=True)
    )
    return red, green, blue

"""How are charts drawn as pixels, for a host that shows pictures and no pages? Dark, side by side, readable small."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageColor, ImageDraw, ImageFont

from .charts import MOST_DOTS, Chart, Layout, Line, Point, laid_out, scale

_PAPER = "#18181b"  # as sheet.py's
_PANEL = "#1f1f23"
_TITLE = "#f4f4f5"
_TEXT = "#bebec4"
_GRID = "#34343a"
_GUIDE = "#8b8b93"
_TONES = {"one": "#5ab2ff", "two": "#ff8f6b", "three": "#c79bff"}
_FAINT, _FAINTEST = 0.3, 0.15
_FINER = 2
"""Drawn so many times larger and scaled down: Pillow's lines have steps, and in a small picture they are seen."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def picture(charts: Sequence[Chart], steps: int, size: tuple[int, int] = (1024, 512)) -> Image.Image:
    """`charts` beside each other over 0 to `steps`, an RGB picture of `size` pixels.

    One that has nothing to show yet says so in its place.
    """
    width, height = size
    sheet = Image.new("RGB", (width * _FINER, height * _FINER), _PAPER)
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
    layout = laid_out(chart, steps)
    if layout is None:
        middle = ((left + right) / 2, (top + bottom) / 2)
        pen.text(middle, "Nothing was measured yet.", _TEXT, ImageFont.load_default(4.4 * unit), anchor="mm")
        return
    inner = (left + 17 * unit, top + 17 * unit, right - 15 * unit, bottom - 15 * unit)
    plot = _Plot(pen, unit, layout, inner)
    plot.axes()
    plot.band()
    if chart.guide:
        plot.guide(*chart.guide)
    for (line, points), smooth in zip(layout.lines, layout.smooth, strict=True):
        plot.course(line, points, smooth)
    plot.end_labels()


@dataclass(frozen=True)
class _Plot:
    """What is between the axes. unit: a hundredth of the panel's height, in pixels."""

    pen: ImageDraw.ImageDraw
    unit: float
    layout: Layout
    inner: Box

    def across(self, step: float) -> float:
        left, _, right, _ = self.inner
        return scale((0.0, self.layout.last), (left, right))(step)

    def up(self, height: float) -> float:
        """A wild height is put a little outside of the picture."""
        _, top, _, bottom = self.inner
        y = scale((self.layout.low, self.layout.high), (bottom, top))(height)
        return min(max(y, top - 3 * self.unit), bottom + 2 * self.unit)

    def axes(self) -> None:
        left, _, right, bottom = self.inner
        for tick in self.layout.ticks:
            y = self.up(tick)
            self._stroke([(left, y), (right, y)], _GRID, 0.3)
            self._write((left - 2 * self.unit, y), self.layout.shown(tick), _TEXT, 4, "rm")
        for tick in self.layout.along:
            self._write((self.across(tick), bottom + 2.5 * self.unit), f"{tick:g}", _TEXT, 4, "ma")
        self._write(((left + right) / 2, bottom + 8.5 * self.unit), self.layout.counted, _TEXT, 4, "ma")

    def band(self) -> None:
        band = self.layout.band
        if len(band) == 1:
            x, low, high = band[0]
            self._stroke([self._at((x, low)), self._at((x, high))], _mixed(_TONES["one"], _FAINT), 2)
        elif band:
            edge = [(x, high) for x, _, high in band] + [(x, low) for x, low, _ in reversed(band)]
            self.pen.polygon([self._at(point) for point in edge], _mixed(_TONES["one"], _FAINTEST))

    def guide(self, height: float, words: str) -> None:
        left, _, right, _ = self.inner
        y, dash = self.up(height), 2 * self.unit
        for number in range(0, int((right - left) / dash) + 1, 2):
            x = left + number * dash
            self._stroke([(x, y), (min(x + dash, right), y)], _GUIDE, 0.4)
        below = height - self.layout.low > 0.15 * (self.layout.high - self.layout.low)
        at = (right, y + (1 if below else -1) * self.unit)
        self._write(at, words, _GUIDE, 3.6, "ra" if below else "rd")

    def course(self, line: Line, points: Sequence[Point], smooth: Sequence[Point]) -> None:
        tone = _TONES[line.tone]
        if line.rough and len(points) > 2:
            self._stroke(map(self._at, points), _mixed(tone, _FAINT), 0.35)
        self._stroke(map(self._at, smooth), tone, 0.9)
        dots = smooth if len(smooth) <= (2 if line.rough else MOST_DOTS) else ()
        for point in dots:
            self.pen.circle(self._at(point), 1.2 * self.unit, tone)

    def end_labels(self) -> None:
        """The last value of each line beside its end, the labels kept apart and within the panel."""
        ends = [(line, smooth[-1]) for (line, _), smooth in zip(self.layout.lines, self.layout.smooth, strict=True)]
        free = float("-inf")
        for line, end in sorted(ends, key=lambda one: self.up(one[1][1])):
            x, y = self._at(end)
            y = max(y, free)
            free = y + 6 * self.unit
            words = self.layout.fine(end[1])
            furthest = self.inner[2] + 14 * self.unit - ImageFont.load_default(4.6 * self.unit).getlength(words)
            self._write((min(x + 2.5 * self.unit, furthest), y), words, _TONES[line.tone], 4.6, "lm")

    def _at(self, point: Point) -> tuple[float, float]:
        return self.across(point[0]), self.up(point[1])

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

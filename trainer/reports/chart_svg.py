"""Charts as SVG, for pages. The colours are those of html.py's style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .charts import MAX_DOTS, NOTHING_MEASURED, Chart, Course, Plot, Point, lay_out

_WIDTH, _HEIGHT = 420, 216
_LEFT, _TOP, _RIGHT, _BOTTOM = _BOX = (54, 12, 364, 182)
_ABOVE, _BELOW = 8, 4
_LABEL_GAP = 13
"""Units of the drawing between two labels that must not overlap."""


def draw_svg(chart: Chart, steps: int) -> str:
    """The chart as an `<svg>` over 0 to `steps`; a sentence in its place where there is nothing to draw."""
    layout = lay_out(chart, steps)
    if layout is None:
        return f'<p class="empty">{NOTHING_MEASURED}</p>'
    plot = Plot(layout, _BOX, _ABOVE, _BELOW)
    parts = [_axes(plot)]
    if chart.guide:
        parts.append(_guide(plot, *chart.guide))
    if layout.band:
        parts.append(_band(plot))
    parts += [_course(plot, course) for course in layout.courses]
    parts.append(_end_labels(plot))
    last_values = "; ".join(
        f"{course.line.label}: {layout.format_value(course.points[-1][1])} at {chart.along} {course.points[-1][0]:g}"
        for course in layout.courses
    )
    label = escape(f"{chart.title}. {last_values}", quote=True)
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _axes(plot: Plot) -> str:
    layout = plot.layout
    return "".join(
        [
            *(_horizontal(plot.y(tick), label) for tick, label in layout.up),
            *(_below(plot.x(tick), 18, label) for tick, label in layout.across),
            _below((_LEFT + _RIGHT) / 2, 31, escape(layout.chart.along)),
        ]
    )


def _horizontal(y: float, label: str) -> str:
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="axis" x="{_LEFT - 7}" y="{y + 3.5:.1f}" text-anchor="end">{label}</text>'
    )


def _below(x: float, by: float, label: str) -> str:
    return f'<text class="axis" x="{x:.1f}" y="{_BOTTOM + by:.0f}" text-anchor="middle">{label}</text>'


def _guide(plot: Plot, height: float, words: str) -> str:
    y = plot.y(height)
    words_y = y + 11 if plot.layout.has_room_below(height) else y - 4
    return (
        f'<line class="guide" x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="axis" x="{_RIGHT - 2}" y="{words_y:.1f}" text-anchor="end">{escape(words)}</text>'
    )


def _band(plot: Plot) -> str:
    band = plot.layout.band
    if len(band) == 1:
        x, low, high = plot.x(band[0][0]), plot.y(band[0][1]), plot.y(band[0][2])
        return f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
    return f'<polygon class="band" points="{_path(plot, plot.layout.band_edge)}"/>'


def _course(plot: Plot, course: Course) -> str:
    line, drawn = course.line, ""
    if course.has_pale_points:
        drawn += f'<polyline class="rough {line.tone}" points="{_path(plot, course.points)}"/>'
    drawn += f'<polyline class="line {line.tone}" points="{_path(plot, course.smooth)}"/>'
    if not line.rough and len(course.points) <= MAX_DOTS:
        along, format_value = escape(plot.layout.chart.along), plot.layout.format_value
        drawn += "".join(
            f'<circle class="dot {line.tone}" cx="{plot.x(x):.1f}" cy="{plot.y(y):.1f}" r="2.6">'
            f"<title>{along} {x:g}: {format_value(y)}</title></circle>"
            for x, y in course.points
        )
    return drawn


def _end_labels(plot: Plot) -> str:
    """The last value of each line beside its end, the labels kept apart."""
    return "".join(
        f'<text class="end {line.tone}" x="{x + 6:.1f}" y="{y + 4:.1f}">{value}</text>'
        for line, x, y, value in plot.end_labels(_LABEL_GAP)
    )


def _path(plot: Plot, points: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in map(plot.at, points))

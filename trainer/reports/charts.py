"""How is a course of numbers laid out as a chart, and drawn as SVG? Its colours are those of report_page's style sheet.

`chart_picture` draws the same layout as pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, ...]
"""(x, y), or (x, low, high) in a band."""

MOST_POINTS = 240
MOST_DOTS = 40
"""More points than these are a line without dots."""
_WIDTH, _HEIGHT = 420, 216
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 56, 12, 34
_LABEL_GAP = 13
"""Units of the drawing between two labels that must not overlap."""


@dataclass(frozen=True)
class Line:
    """One course. tone: "one", "two" or "three", a colour of the page.

    rough: drawn pale, with its running mean over it, for numbers that jump from step to step.
    """

    label: str
    points: Sequence[Point]
    tone: str = "one"
    rough: bool = False


@dataclass(frozen=True)
class Chart:
    """title: what is drawn; good: what a good course looks like, one sentence. along: what is counted to the right.

    band: (x, low, high) around the first line. guide: (y, what that height means). share: 0 to 1, shown in percent.
    """

    title: str
    good: str
    lines: Sequence[Line]
    band: Sequence[Point] = ()
    guide: tuple[float, str] | None = None
    share: bool = False
    from_zero: bool = False
    along: str = "step"


@dataclass(frozen=True)
class Layout:
    """What of a chart is drawn, in its own numbers.

    lines: those with points, thinned; smooth: the strong course of each, the running mean where it is rough. last: the
    step at the right edge; low, high: the heights at the lower and upper edge. ticks: heights, along: steps that are
    written at the axes; counted: what those are. shown: how the axis writes a height; fine: how a value between two
    ticks is written.
    """

    lines: list[tuple[Line, list[Point]]]
    smooth: list[list[Point]]
    band: list[Point]
    last: float
    low: float
    high: float
    ticks: list[float]
    along: list[float]
    counted: str
    shown: Callable[[float], str]
    fine: Callable[[float], str]


def laid_out(chart: Chart, steps: int) -> Layout | None:
    """The chart over 0 to `steps`; None where nothing was measured yet."""
    lines = [(line, thinned(line.points)) for line in chart.lines if line.points]
    if not lines:
        return None
    last = max([steps, *(points[-1][0] for _, points in lines), 1])
    low, high = (0.0, 1.0) if chart.share else _range(chart, lines)
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if chart.share else nice_ticks(low, high)
    shown = _shown(chart.share, ticks)
    return Layout(
        lines=lines,
        smooth=[_smooth(line, points) for line, points in lines],
        band=thinned(chart.band),
        last=last,
        low=low,
        high=high,
        ticks=ticks,
        along=nice_ticks(0, last, whole=True),
        counted=chart.along,
        shown=shown,
        fine=_fine(shown),
    )


def draw(chart: Chart, steps: int) -> str:
    """The chart as an `<svg>` over 0 to `steps`; a sentence in its place where there is nothing to draw."""
    layout = laid_out(chart, steps)
    if layout is None:
        return '<p class="empty">Nothing was measured yet.</p>'
    across = scale((0.0, layout.last), (_LEFT, _WIDTH - _RIGHT))
    up = scale((layout.low, layout.high), (_HEIGHT - _BOTTOM, _TOP))
    parts = [
        *(_horizontal(up(tick), layout.shown(tick)) for tick in layout.ticks),
        *(_below(across(tick), 18, f"{tick:g}") for tick in layout.along),
        _below((_LEFT + _WIDTH - _RIGHT) / 2, 31, escape(chart.along)),
    ]
    if chart.guide:
        parts.append(_guide(chart.guide, up, layout.low, layout.high))
    if layout.band:
        parts.append(_band(layout.band, across, up))
    for (line, points), smooth in zip(layout.lines, layout.smooth, strict=True):
        parts.append(_course(line, points, smooth, across, up, layout.fine, chart.along))
    ends = [(line, smooth[-1]) for (line, _), smooth in zip(layout.lines, layout.smooth, strict=True)]
    parts.append(_end_labels(ends, across, up, layout.fine))
    said = "; ".join(
        f"{line.label}: {layout.fine(points[-1][1])} at {chart.along} {points[-1][0]:g}"
        for line, points in layout.lines
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(f"{chart.title}. {said}", quote=True)}">'
        f"{''.join(parts)}</svg>"
    )


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most `most` points: means of equally many neighbours, the last point exact."""
    points = [tuple(point) for point in points]
    if len(points) <= most:
        return points
    each = math.ceil(len(points) / (most - 1))
    runs = [points[i : i + each] for i in range(0, len(points), each)]
    means: list[Point] = [tuple(math.fsum(column) / len(run) for column in zip(*run, strict=True)) for run in runs]
    return [*means[: most - 1], points[-1]]


def running_mean(points: Sequence[Point], window: int) -> list[Point]:
    """(x, mean of y over up to `window` points on either side)."""
    smooth: list[Point] = []
    for i, (x, _) in enumerate(points):
        near = points[max(0, i - window) : i + window + 1]
        smooth.append((x, math.fsum(y for _, y in near) / len(near)))
    return smooth


def nice_ticks(low: float, high: float, about: int = 4, whole: bool = False) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    apart = (high - low) / about
    power = 10.0 ** math.floor(math.log10(apart)) if apart > 0 else 1.0
    # The limits are the geometric means of neighbouring factors: the step is the nearest in ratio.
    factors = ((1, 2**0.5), (2, 10**0.5), (5, 50**0.5), (10, math.inf))
    step = power * next(factor for factor, limit in factors if apart / power < limit)
    step = max(step, 1.0) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _smooth(line: Line, points: Sequence[Point]) -> list[Point]:
    return running_mean(points, max(2, len(points) // 16)) if line.rough else list(points)


def _range(chart: Chart, lines: Sequence[tuple[Line, Sequence[Point]]]) -> tuple[float, float]:
    values: list[float] = []
    for line, points in lines:
        heights = sorted(y for _, y in points)
        # A few wild steps may leave the picture; the rest must not become a flat line for them.
        cut = len(heights) // 50 if line.rough else 0
        values += heights[cut : len(heights) - cut]
        values += [y for _, y in _smooth(line, points)]
    if chart.guide:
        values.append(chart.guide[0])
    low, high = min(values), max(values)
    if chart.from_zero:
        low = min(low, 0.0)
    # Below a fiftieth of its height a change is drawn as the small thing it is.
    least = 0.02 * max(abs(low), abs(high)) or 1.0
    if high - low < least:
        low, high = (low, low + least) if chart.from_zero else ((low + high - least) / 2, (low + high + least) / 2)
    room = 0.06 * (high - low)
    return low - (0 if chart.from_zero and low == 0 else room), high + room


def scale(domain: tuple[float, float], to: tuple[float, float]) -> Callable[[float], float]:
    """The straight map of the one range onto the other."""
    return lambda value: to[0] + (value - domain[0]) / (domain[1] - domain[0]) * (to[1] - to[0])


def _shown(share: bool, ticks: Sequence[float]) -> Callable[[float], str]:
    if share:
        return lambda value: f"{100 * value:.0f} %"
    apart = ticks[1] - ticks[0] if len(ticks) > 1 else max(map(abs, ticks), default=1.0) or 1.0
    largest = max(map(abs, ticks), default=1.0)
    if apart < 1e-5 or largest >= 1e6:
        return lambda value: "0" if value == 0 else f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    decimals = max(0, -math.floor(math.log10(apart) + 1e-9))
    return lambda value: _decimal(value, decimals)


def _fine(shown: Callable[[float], str]) -> Callable[[float], str]:
    """As the axis shows numbers, with a digit more: a value lies between two ticks."""
    sample = shown(1.0)
    if "%" in sample or "e" in sample:
        return shown
    decimals = len(sample.partition(".")[2])
    return lambda value: _decimal(value, decimals + 1)


def _decimal(value: float, decimals: int) -> str:
    written = f"{value:.{decimals}f}"
    return "0" if float(written) == 0 else written


def _horizontal(y: float, label: str) -> str:
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="axis" x="{_LEFT - 7}" y="{y + 3.5:.1f}" text-anchor="end">{label}</text>'
    )


def _below(x: float, by: float, label: str) -> str:
    return f'<text class="axis" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + by:.0f}" text-anchor="middle">{label}</text>'


def _guide(guide: tuple[float, str], up: Callable[[float], float], low: float, high: float) -> str:
    y = up(guide[0])
    below = y + 11 if (guide[0] - low) > 0.15 * (high - low) else y - 4
    return (
        f'<line class="guide" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="axis" x="{_WIDTH - _RIGHT - 2}" y="{below:.1f}" text-anchor="end">{escape(guide[1])}</text>'
    )


def _band(band: Sequence[Point], across: Callable[[float], float], up: Callable[[float], float]) -> str:
    if len(band) == 1:
        x, low, high = across(band[0][0]), up(band[0][1]), up(band[0][2])
        return f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
    edge = [(x, high) for x, _, high in band] + [(x, low) for x, low, _ in reversed(band)]
    return f'<polygon class="band" points="{_path(edge, across, up)}"/>'


def _course(
    line: Line,
    points: Sequence[Point],
    smooth: Sequence[Point],
    across: Callable[[float], float],
    up: Callable[[float], float],
    fine: Callable[[float], str],
    along: str,
) -> str:
    drawn = ""
    if line.rough and len(points) > 2:
        drawn += f'<polyline class="rough {line.tone}" points="{_path(points, across, up)}"/>'
    drawn += f'<polyline class="line {line.tone}" points="{_path(smooth, across, up)}"/>'
    if not line.rough and len(points) <= MOST_DOTS:
        drawn += "".join(
            f'<circle class="dot {line.tone}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="2.6">'
            f"<title>{escape(along)} {x:g}: {fine(y)}</title></circle>"
            for x, y in points
        )
    return drawn


def _end_labels(
    ends: Sequence[tuple[Line, Point]],
    across: Callable[[float], float],
    up: Callable[[float], float],
    shown: Callable[[float], str],
) -> str:
    """The last value of each line beside its end, the labels kept apart."""
    drawn, free = "", -math.inf
    for line, (x, y) in sorted(ends, key=lambda end: up(end[1][1])):
        at = max(up(y) + 4, free)
        free = at + _LABEL_GAP
        drawn += f'<text class="end {line.tone}" x="{across(x) + 6:.1f}" y="{at:.1f}">{shown(y)}</text>'
    return drawn


def _path(points: Sequence[Point], across: Callable[[float], float], up: Callable[[float], float]) -> str:
    """Points outside the picture are put on its edge."""
    return " ".join(f"{across(x):.1f},{min(max(up(y), _TOP - 8), _HEIGHT - _BOTTOM + 4):.1f}" for x, y in points)

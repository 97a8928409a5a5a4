"""Charts: a course of numbers, and its layout on two axes, the same for `chart_svg` and `chart_image`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Point = tuple[float, ...]
"""(x, y), or (x, low, high) in a band."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
Tick = tuple[float, str]
"""A value on an axis, and its label."""

MAX_POINTS = 240
MAX_DOTS = 40
"""More points than these are a line without dots."""
NOTHING_MEASURED = "Nothing was measured yet."


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
class Course:
    """A line that has points. points: thinned; smooth: what is drawn strong, the running mean where it is rough."""

    line: Line
    points: list[Point]
    smooth: list[Point]

    @property
    def has_pale_points(self) -> bool:
        """Whether the points are drawn pale below the running mean."""
        return self.line.rough and len(self.points) > 2


@dataclass(frozen=True)
class Layout:
    """What of a chart is drawn, in its own numbers.

    band: thinned. last: the step at the right edge; low, high: the heights at the lower and upper edge. across, up:
    the ticks of the axes. format_value: writes a value between two ticks.
    """

    chart: Chart
    courses: list[Course]
    band: list[Point]
    last: float
    low: float
    high: float
    across: list[Tick]
    up: list[Tick]
    format_value: Callable[[float], str]

    @property
    def band_edge(self) -> list[Point]:
        """The (x, y) around the band: along its upper side, and back along its lower one."""
        return [(x, high) for x, _, high in self.band] + [(x, low) for x, low, _ in reversed(self.band)]

    def has_room_below(self, height: float) -> bool:
        """Whether words fit between that height and the lower edge."""
        return height - self.low > 0.15 * (self.high - self.low)


@dataclass(frozen=True)
class Plot:
    """A layout in the box between the axes, in the units of a drawing, whose y grows downwards.

    above, below: how far outside of the box a height may lie; a wilder one is put there.
    """

    layout: Layout
    box: Box
    above: float
    below: float

    def x(self, step: float) -> float:
        left, _, right, _ = self.box
        return _interpolate(step, (0.0, self.layout.last), (left, right))

    def y(self, height: float) -> float:
        _, top, _, bottom = self.box
        y = _interpolate(height, (self.layout.low, self.layout.high), (bottom, top))
        return min(max(y, top - self.above), bottom + self.below)

    def at(self, point: Point) -> tuple[float, float]:
        return self.x(point[0]), self.y(point[1])

    def end_labels(self, gap: float) -> Iterator[tuple[Line, float, float, str]]:
        """Each line, the x of its end, the y of its label, and its last value; labels are `gap` apart at least."""
        next_y = -math.inf
        for course in sorted(self.layout.courses, key=lambda course: self.y(course.smooth[-1][1])):
            x, y = self.at(course.smooth[-1])
            y = max(y, next_y)
            next_y = y + gap
            yield course.line, x, y, self.layout.format_value(course.smooth[-1][1])


def lay_out(chart: Chart, steps: int) -> Layout | None:
    """The chart over 0 to `steps`; None where nothing was measured yet."""
    courses = [_course(line) for line in chart.lines if line.points]
    if not courses:
        return None
    last = max([steps, *(course.points[-1][0] for course in courses), 1])
    low, high = (0.0, 1.0) if chart.share else _range(chart, courses)
    heights = [0.0, 0.25, 0.5, 0.75, 1.0] if chart.share else nice_ticks(low, high)
    format_tick = _tick_format(chart.share, heights)
    return Layout(
        chart=chart,
        courses=courses,
        band=thinned(chart.band),
        last=last,
        low=low,
        high=high,
        across=[(tick, f"{tick:g}") for tick in nice_ticks(0, last, whole=True)],
        up=[(tick, format_tick(tick)) for tick in heights],
        format_value=_value_format(format_tick),
    )


def thinned(points: Sequence[Point], most: int = MAX_POINTS) -> list[Point]:
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


def _course(line: Line) -> Course:
    points = thinned(line.points)
    return Course(line, points, running_mean(points, max(2, len(points) // 16)) if line.rough else points)


def _range(chart: Chart, courses: Sequence[Course]) -> tuple[float, float]:
    """The heights at the lower and upper edge."""
    values: list[float] = []
    for course in courses:
        heights = sorted(y for _, y in course.points)
        # A few wild steps may leave the drawing; the rest must not become a flat line for them.
        cut = len(heights) // 50 if course.line.rough else 0
        values += heights[cut : len(heights) - cut]
        values += [y for _, y in course.smooth]
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


def _interpolate(value: float, domain: tuple[float, float], to: tuple[float, float]) -> float:
    return to[0] + (value - domain[0]) / (domain[1] - domain[0]) * (to[1] - to[0])


def _tick_format(share: bool, ticks: Sequence[float]) -> Callable[[float], str]:
    if share:
        return lambda value: f"{100 * value:.0f} %"
    apart = ticks[1] - ticks[0] if len(ticks) > 1 else max(map(abs, ticks), default=1.0) or 1.0
    largest = max(map(abs, ticks), default=1.0)
    if apart < 1e-5 or largest >= 1e6:
        return lambda value: "0" if value == 0 else f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    decimals = max(0, -math.floor(math.log10(apart) + 1e-9))
    return lambda value: _decimal(value, decimals)


def _value_format(format_tick: Callable[[float], str]) -> Callable[[float], str]:
    """As ticks are written, with a digit more: a value lies between two of them."""
    sample = format_tick(1.0)
    if "%" in sample or "e" in sample:
        return format_tick
    decimals = len(sample.partition(".")[2])
    return lambda value: _decimal(value, decimals + 1)


def _decimal(value: float, decimals: int) -> str:
    written = f"{value:.{decimals}f}"
    return "0" if float(written) == 0 else written

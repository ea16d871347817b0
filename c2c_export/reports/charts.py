"""Charts as inline SVG: stacked bars, lines, and points with intervals.

Colours come from the page's style, so that they suit a light and a dark one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _LABELS, _VALUES = 760, 170, 210  # pixels: the chart, names at its left, numbers right
_ROW, _BAR = 26, 16
_LINE_HEIGHT, _MARGIN = 260, 46


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart: parts in the order of the chart's legend, in its unit. ``text``: at its
    end; ``is_muted``: not ours."""

    label: str
    parts: tuple[float, ...]
    text: str
    is_muted: bool = False


def bar_chart(title: str, bars: Sequence[Bar], legend: Sequence[str] = (), unit: str = "ms") -> str:
    """Horizontal bars, each made of one part or of one for each word of ``legend``."""
    room = _WIDTH - _LABELS - _VALUES
    largest = max((sum(bar.parts) for bar in bars), default=0.0) or 1.0
    step = nice_step(largest)
    top = 24 if legend else 6
    height = top + _ROW * len(bars) + 24
    shapes = [_legend(legend)] if legend else []
    for number in range(int(largest / step) + 1):
        x = _LABELS + number * step / largest * room
        shapes.append(_line(x, top, x, height - 20, "grid"))
        shapes.append(_text(x, height - 6, _number(number * step), "tick", "middle"))
    for row, bar in enumerate(bars):
        y, x = top + row * _ROW + (_ROW - _BAR) / 2, float(_LABELS)
        shapes.append(_text(_LABELS - 8, y + _BAR - 4, bar.label, "label", "end"))
        for place, part in enumerate(bar.parts):
            width = part / largest * room
            name = legend[place] if legend else bar.label
            kind = f"c{place}" if legend or not bar.is_muted else "muted"
            shapes.append(
                f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" '
                f'height="{_BAR}"><title>{escape(f"{bar.label}, {name}: {part:.2f} {unit}")}</title></rect>'
            )
            x += width
        shapes.append(_text(x + 6, y + _BAR - 4, bar.text, "value", "start"))
    return _figure(title, f"bars, {unit}", height, shapes)


def line_chart(
    title: str, x_name: str, series: Mapping[str, Sequence[tuple[float, float]]], unit: str = "ms"
) -> str:
    """A line for each series over a logarithmic x and a y from 0."""
    points = [point for line in series.values() for point in line]
    xs = sorted({x for x, _ in points})
    largest = max((y for _, y in points), default=0.0) or 1.0
    step = nice_step(largest)
    largest = math.ceil(largest / step - 1e-9) * step
    left, right, top, bottom = 60, _WIDTH - 20, 30, _LINE_HEIGHT - _MARGIN
    span = math.log(xs[-1] / xs[0]) if len(xs) > 1 else 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        along = math.log(x / xs[0]) / span
        return left + 20 + along * (right - left - 40), bottom - y / largest * (bottom - top)

    shapes = [_legend(list(series))]
    for number in range(round(largest / step) + 1):
        y = place(xs[0], number * step)[1]
        shapes.append(_line(left, y, right, y, "grid"))
        shapes.append(_text(left - 6, y + 4, _number(number * step), "tick", "end"))
    for x in xs:
        shapes.append(_text(place(x, 0)[0], bottom + 18, _number(x), "tick", "middle"))
    shapes.append(_text((left + right) / 2, bottom + 36, x_name, "label", "middle"))
    for number, (name, line) in enumerate(series.items()):
        placed = [place(x, y) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        shapes.append(f'<polyline class="s{number % 7}" points="{path}"/>')
        for (x, y), (at, value) in zip(placed, line, strict=True):
            words = escape(f"{name}, {x_name} {_number(at)}: {value:.2f} {unit}")
            shapes.append(
                f'<circle class="c{number % 7}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">'
                f"<title>{words}</title></circle>"
            )
    return _figure(title, f"lines, {unit}", _LINE_HEIGHT, shapes)


_Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Point:
    """One mark of a point chart: what it costs, a share of 0 to 1, and the share's interval."""

    label: str
    x: float
    share: float
    low: float
    high: float


def point_chart(
    title: str, x_name: str, points: Sequence[Point], unit: str = "ms", *, up_to: int = 100
) -> str:
    """Shares in percent, from 0 ``up_to`` a multiple of 5, over an x from 0, each with its interval as a
    whisker."""
    largest = max((point.x for point in points), default=0.0) or 1.0
    step = nice_step(largest)
    left, right, top, bottom = 60, _WIDTH - 20, 16, _LINE_HEIGHT - _MARGIN
    largest = math.ceil(largest / step - 1e-9) * step

    def place(x: float, share: float) -> tuple[float, float]:
        height = share * 100 / up_to * (bottom - top)
        return left + x / largest * (right - left - 20), bottom - height

    shapes = []
    for percent in range(0, up_to + 1, up_to // 5):
        y = place(0, percent / 100)[1]
        shapes.append(_line(left, y, right, y, "grid"))
        shapes.append(_text(left - 6, y + 4, f"{percent} %", "tick", "end"))
    for number in range(round(largest / step) + 1):
        x = place(number * step, 0)[0]
        shapes.append(_text(x, bottom + 18, _number(number * step), "tick", "middle"))
    shapes.append(_text((left + right) / 2, bottom + 36, x_name, "label", "middle"))
    taken: list[_Box] = [
        (x - 7, y - 7, x + 7, y + 7) for x, y in (place(p.x, p.share) for p in points)
    ]
    for number, point in enumerate(points):
        colour = number % 7
        x, y = place(point.x, point.share)
        for share in (point.low, point.high):
            end = place(point.x, share)[1]
            shapes.append(_line(x - 5, end, x + 5, end, f"s{colour}"))
        ends = (place(point.x, share)[1] for share in (point.low, point.high))
        shapes.append(_line(x, next(ends), x, next(ends), f"s{colour}"))
        percents = f"{100 * point.share:.1f} % ({100 * point.low:.1f} to {100 * point.high:.1f})"
        words = escape(f"{point.label}: {percents}, {point.x:.2f} {unit}")
        shapes.append(
            f'<circle class="c{colour}" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{words}</title></circle>'
        )
        name = f"{point.label}, {100 * point.share:.1f} %"
        at_x, at_y, anchor = _free_place(name, (x, y), taken, (left, right, top, bottom))
        shapes.append(_text(at_x, at_y + 4, name, f"value c{colour}", anchor))
    return _figure(title, f"points, percent and {unit}", _LINE_HEIGHT, shapes)


def _free_place(
    words: str,
    mark: tuple[float, float],
    taken: list[_Box],
    bounds: tuple[float, float, float, float],
) -> tuple[float, float, str]:
    """Where a mark's name covers nothing that is there: beside the mark, or as little above or below as it
    takes. Adds it to ``taken``. ``bounds``: left, right, top and bottom of the plot."""
    left, right, top, bottom = bounds
    width = 6.6 * len(words)
    for shift in (0, 15, -15, 30, -30, 45, -45, 60, -60, 75, -75):
        for begin, end, x, anchor in (
            (mark[0] + 9, mark[0] + 9 + width, mark[0] + 10, "start"),
            (mark[0] - 9 - width, mark[0] - 9, mark[0] - 10, "end"),
        ):
            y = mark[1] + shift
            box = (begin, y - 7, end, y + 7)
            is_inside = begin >= left and end <= right and top - 8 <= y <= bottom
            if is_inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                return x, y, anchor
    return mark[0] + 10, mark[1], "start"


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def nice_step(largest: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that gives four to nine marks up to ``largest``."""
    power = 10.0 ** math.floor(math.log10(largest / 4))
    return next(factor * power for factor in (5, 2, 1) if factor * power <= largest / 4 * 1.0001)


def _figure(title: str, what: str, height: float, shapes: Sequence[str]) -> str:
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" '
        f'aria-label="{escape(f"{title} ({what})", quote=True)}">{"".join(shapes)}</svg></figure>'
    )


def _legend(words: Sequence[str]) -> str:
    widths = [30 + 6.6 * len(word) for word in words]
    x, parts = min(float(_LABELS), max(_WIDTH - sum(widths), 0.0)), []
    for place, (word, width) in enumerate(zip(words, widths, strict=True)):
        parts.append(f'<rect class="c{place % 7}" x="{x:.0f}" y="4" width="11" height="11"/>')
        parts.append(_text(x + 16, 14, word, "tick", "start"))
        x += width
    return "".join(parts)


def _text(x: float, y: float, words: str, kind: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"

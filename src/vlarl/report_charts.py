"""Inline SVG for the report: line charts with bands, stacked bars, interval pictures. No plotting library.

Colours are CSS classes, so that one drawing serves light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

Number = float | None
Format = Callable[[float], str]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart; ``css`` names its colour. None leaves a gap."""

    name: str
    css: str
    x: Sequence[float]
    y: Sequence[Number]
    low: Sequence[Number] = ()  # band, where given
    high: Sequence[Number] = ()
    titles: Sequence[str] = ()  # shown when the pointer rests on a point; gives the points a dot


@dataclass(frozen=True)
class TopAxis:
    """A second scale for x above the chart: x times ``factor``."""

    label: str
    factor: float
    format: Format


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The room of a chart and its axes; lengths in SVG units."""

    width: int
    height: int
    x_format: Format
    y_format: Format
    x_label: str = ""
    top_axis: TopAxis | None = None  # needs a ``top`` of 40
    y_range: tuple[float, float] | None = None  # from the data when absent
    y_ticks: int = 4
    x_ticks: int = 5
    left: int = 46
    right: int = 14
    top: int = 10
    bottom: int = 30


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        share = (value - self.low) / span if span else 0.5
        return self.start + share * (self.stop - self.start)


def line_chart(series: Sequence[Series], frame: Frame, *, label: str) -> str:
    """Lines over axes that begin at x = 0; bands lie below all lines. ``label`` says in words what is drawn."""
    drawn = [one for one in series if any(_finite(y) for y in one.y)]
    if not drawn:
        return ""
    x_low, x_high = _extent([0.0, *(x for one in drawn for x in one.x)])
    y_low, y_high = frame.y_range or _padded(
        _extent([y for one in drawn for y in (*one.y, *one.low, *one.high) if _finite(y)])
    )
    x_scale = _Scale(x_low, x_high, frame.left, frame.width - frame.right)
    y_scale = _Scale(y_low, y_high, frame.height - frame.bottom, frame.top)
    parts = [
        f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img" aria-label="{escape(label, quote=True)}">',
        *_axes(frame, x_scale, y_scale),
        *(_band(one, x_scale, y_scale) for one in drawn if one.low),
        *(_line(one, x_scale, y_scale) for one in drawn),
        *(_dots(one, x_scale, y_scale) for one in drawn if one.titles),
        "</svg>",
    ]
    return "".join(parts)


def stacked_bar(parts: Sequence[tuple[str, str, float]], *, label: str) -> str:
    """One horizontal bar out of (name, css, amount); the legend is written beside it in HTML."""
    total = sum(amount for _, _, amount in parts) or 1.0
    at, pieces = 0.0, []
    for name, css, amount in parts:
        width = 1000 * amount / total
        pieces.append(
            f'<rect class="{css} fill" x="{at:.2f}" y="0" width="{max(0.0, width - 1.5):.2f}" height="26">'
            f"<title>{escape(name)}: {100 * amount / total:.1f}%</title></rect>"
        )
        at += width
    head = f'<svg class="bar" viewBox="0 0 1000 26" preserveAspectRatio="none" role="img" aria-label="{escape(label)}">'
    return f"{head}{''.join(pieces)}</svg>"


def interval_picture(rows: Sequence[tuple[str, float, float, float]], *, label: str) -> str:
    """Rates with intervals on a line from 0 to 100 %: (css, rate, low, high), one above the other."""
    scale = _Scale(0.0, 1.0, 6.0, 174.0)
    height = 12 * len(rows) + 8
    parts = [
        f'<svg class="picture" viewBox="0 0 180 {height}" role="img" aria-label="{escape(label, quote=True)}">',
        *(
            f'<line class="grid" x1="{scale(x):.1f}" x2="{scale(x):.1f}" y1="2" y2="{height - 2}"/>'
            for x in (0.0, 0.5, 1.0)
        ),
    ]
    for index, (css, rate, low, high) in enumerate(rows):
        y = 10 + 12 * index
        parts.append(
            f'<line class="{css} stroke soft" x1="{scale(low):.1f}" x2="{scale(high):.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="{css} fill" cx="{scale(rate):.1f}" cy="{y}" r="4"/>'
        )
    return "".join((*parts, "</svg>"))


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round numbers in [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def short_number(value: float) -> str:
    """``1.2M``, ``50k``, ``0.05``, ``2e-05``: as short as it stays exact enough for an axis."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1e4:
        return f"{value / 1e3:.3g}k"
    if 0 < size < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.4g}"


def percent(value: float) -> str:
    return f"{100 * value:.0f}%"


def _axes(frame: Frame, x_scale: _Scale, y_scale: _Scale) -> list[str]:
    parts = []
    right, base = frame.width - frame.right, frame.height - frame.bottom
    for value in nice_ticks(y_scale.low, y_scale.high, frame.y_ticks):
        y = y_scale(value)
        parts.append(f'<line class="grid" x1="{frame.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(frame.left - 7, y + 4, frame.y_format(value), "end"))
    ticks = nice_ticks(x_scale.low, x_scale.high, frame.x_ticks)
    parts += [_text(x_scale(value), base + 17, frame.x_format(value), "middle") for value in ticks]
    parts.append(f'<line class="axis" x1="{frame.left}" x2="{right}" y1="{base}" y2="{base}"/>')
    if frame.x_label:
        parts.append(_text((frame.left + right) / 2, frame.height - 2, frame.x_label, "middle"))
    return parts + (_top_axis(frame, frame.top_axis, x_scale) if frame.top_axis else [])


def _top_axis(frame: Frame, axis: TopAxis, x_scale: _Scale) -> list[str]:
    right = frame.width - frame.right
    ticks = nice_ticks(x_scale.low * axis.factor, x_scale.high * axis.factor, frame.x_ticks)
    return [
        _text((frame.left + right) / 2, 12, axis.label, "middle"),
        *(_text(x_scale(value / axis.factor), frame.top - 9, axis.format(value), "middle") for value in ticks),
    ]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _band(one: Series, x_scale: _Scale, y_scale: _Scale) -> str:
    rows = [
        (x_scale(x), y_scale(low), y_scale(high))
        for x, low, high in zip(one.x, one.low, one.high, strict=True)
        if low is not None and high is not None
    ]
    upper = [f"{x:.1f},{high:.1f}" for x, _, high in rows]
    lower = [f"{x:.1f},{low:.1f}" for x, low, _ in reversed(rows)]
    return f'<polygon class="{one.css} band" points="{" ".join(upper + lower)}"/>'


def _line(one: Series, x_scale: _Scale, y_scale: _Scale) -> str:
    pieces: list[list[str]] = [[]]
    for x, y in zip(one.x, one.y, strict=True):
        if y is None or not math.isfinite(y):
            pieces.append([])
        else:
            pieces[-1].append(f"{x_scale(x):.1f},{y_scale(y):.1f}")
    return "".join(f'<polyline class="{one.css} stroke" points="{" ".join(p)}"/>' for p in pieces if p)


def _dots(one: Series, x_scale: _Scale, y_scale: _Scale) -> str:
    return "".join(
        f'<circle class="{one.css} dot" cx="{x_scale(x):.1f}" cy="{y_scale(y):.1f}" r="4.5">'
        f"<title>{escape(title)}</title></circle>"
        for x, y, title in zip(one.x, one.y, one.titles, strict=True)
        if y is not None
    )


def _extent(values: Sequence[Number]) -> tuple[float, float]:
    found = [value for value in values if value is not None]
    return min(found), max(found)


def _padded(extent: tuple[float, float]) -> tuple[float, float]:
    low, high = extent
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    # An amount is read against nothing, so that noise does not fill the picture.
    return (0.0 if low >= 0 else low - room), high + room


def _finite(value: Number) -> bool:
    return value is not None and math.isfinite(value)

"""Charts as inline SVG. They scale, need no script, and take their colours from the style sheet of the page."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 310
LEFT, RIGHT, TOP, BOTTOM = 52, 118, 16, 50


@dataclass(frozen=True)
class Series:
    """A named line. `style` is its CSS class."""

    name: str
    style: str
    points: tuple[tuple[float, float], ...]  # (x, y), by x
    intervals: tuple[tuple[float, float], ...] = ()  # (low, high) of each point's y; then every point has a dot


def line_chart(title: str, series: Sequence[Series], x_label: str, percent: bool, x_from: float = 0.0) -> str:
    """Returns a chart of lines over a common x. The name of a line is at its end.

    If `percent`, y is a share between 0 and 1.
    """
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for _, y in line.points]
    right_end = max(xs)
    x_ticks = [x for x in _ticks(x_from, max(right_end, x_from + 1e-9)) if x <= right_end]
    y_ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if percent else _ticks(min(ys), max(ys))
    low, high = min(y_ticks[0], *ys), max(y_ticks[-1], *ys)

    def at_x(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - x_from) / ((right_end - x_from) or 1.0)

    def at_y(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - low) / ((high - low) or 1.0)

    parts = [f"<title>{escape(title)}</title>"]
    for y in y_ticks:
        label = f"{y:.0%}" if percent else f"{y:g}".replace("-", "−")
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at_y(y):.1f}" y2="{at_y(y):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at_y(y) + 5:.1f}" text-anchor="end">{label}</text>')
    for x in x_ticks:
        parts.append(f'<text x="{at_x(x):.1f}" y="{HEIGHT - BOTTOM + 22}" text-anchor="middle">{x:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    label_at = _spread_labels([at_y(line.points[-1][1]) for line in series])
    for line, label_y in zip(series, label_at, strict=True):
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in line.points)
        end_x, end_y = at_x(line.points[-1][0]), at_y(line.points[-1][1])
        parts.append(f'<polyline class="line {line.style}" points="{path}"/>')
        for (x, y), (bottom, top) in zip(line.points, line.intervals, strict=False):
            whisker = f'x1="{at_x(x):.1f}" x2="{at_x(x):.1f}" y1="{at_y(bottom):.1f}" y2="{at_y(top):.1f}"'
            parts.append(f'<line class="interval {line.style}" {whisker}/>')
            parts.append(f'<circle class="dot {line.style}" cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3.5"/>')
        parts.append(f'<circle class="dot {line.style}" cx="{end_x:.1f}" cy="{end_y:.1f}" r="3.5"/>')
        parts.append(
            f'<text class="name {line.style}" x="{end_x + 9:.1f}" y="{label_y + 4:.1f}">{escape(line.name)}</text>'
        )
    return f'<svg class="chart" role="img" viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(parts)}</svg>'


@dataclass(frozen=True)
class Bar:
    """A named share between 0 and 1, and the share that it is compared with, if any."""

    name: str
    share: float
    reference: float | None = None


def bar_chart(title: str, bars: Sequence[Bar]) -> str:
    """Returns a chart of horizontal bars with their percentages. A reference is a tick across its bar."""
    height, left, right = 26, 150, 62
    longest = max([bar.share for bar in bars] + [bar.reference or 0.0 for bar in bars] + [1e-9])
    parts = [f"<title>{escape(title)}</title>"]
    for i, bar in enumerate(bars):
        y, scale = i * height, (WIDTH - left - right) / longest
        end = left + scale * bar.share
        parts.append(f'<text x="{left - 10}" y="{y + 18}" text-anchor="end">{escape(bar.name)}</text>')
        parts.append(
            f'<rect class="bar" x="{left}" y="{y + 5}" width="{end - left:.1f}" height="{height - 9}" rx="3"/>'
        )
        if bar.reference is not None:
            at = left + scale * bar.reference
            parts.append(f'<line class="reference" x1="{at:.1f}" x2="{at:.1f}" y1="{y + 1}" y2="{y + height - 1}"/>')
            end = max(end, at)
        parts.append(f'<text x="{end + 8:.1f}" y="{y + 18}">{bar.share:.1%}</text>')
    return f'<svg class="chart" role="img" viewBox="0 0 {WIDTH} {height * len(bars) + 4}">{"".join(parts)}</svg>'


def _ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Returns about `wanted` evenly spaced round numbers that cover low..high."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / wanted))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if span / (power * factor) <= wanted)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _spread_labels(heights: Sequence[float], gap: float = 19.0) -> list[float]:
    """Moves labels apart so that no label covers another. Heights and `gap` are in pixels."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed = list(heights)
    for above, below in itertools.pairwise(order):
        placed[below] = max(placed[below], placed[above] + gap)
    return placed

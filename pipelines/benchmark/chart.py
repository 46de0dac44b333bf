"""A chart of cells: a line of dots for each, base against policy, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LEFT, RIGHT, ROW, TOP = 760, 250, 60, 34, 26
STYLES = ("objects", "policy")
"""CSS classes of the first and of the second side, as in the report of the evaluation."""


@dataclass(frozen=True)
class Dot:
    """A value of one side with its interval, as shares between 0 and 1."""

    side: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class DotRow:
    """One cell: its name and the values of the sides."""

    name: str
    dots: tuple[Dot, ...]


def dot_chart(title: str, rows: Sequence[DotRow]) -> str:
    """Returns an inline SVG with one line a cell, from 0 to 100 %. It takes its colours from the page."""
    height = TOP + ROW * len(rows) + 34

    def at(share: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(max(share, 0.0), 1.0)

    parts = [f"<title>{escape(title)}</title>"]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, bottom = at(tick), height - 30
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - 10}" text-anchor="middle">{tick:.0%}</text>')
    for number, row in enumerate(rows):
        middle = TOP + ROW * number + ROW / 2
        parts.append(f'<text x="{LEFT - 14}" y="{middle + 5:.1f}" text-anchor="end">{escape(row.name)}</text>')
        for place, dot in enumerate(row.dots):
            y, style = middle + 5 * (place - (len(row.dots) - 1) / 2), STYLES[min(place, 1)]
            whisker = f'x1="{at(dot.low):.1f}" x2="{at(dot.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"'
            parts.append(f'<line class="interval {style}" {whisker}/>')
            label = f"{dot.side}, {row.name}: {dot.value:.1%} [{dot.low:.1%}, {dot.high:.1%}]"
            circle = f'<circle class="dot {style}" cx="{at(dot.value):.1f}" cy="{y:.1f}" r="4.5">'
            parts.append(f"{circle}<title>{escape(label)}</title></circle>")
    sides = [dot.side for dot in rows[0].dots] if rows else []
    for place, side in enumerate(sides):
        x = LEFT + 110 * place
        parts.append(f'<text class="name {STYLES[min(place, 1)]}" x="{x}" y="12">● {escape(side)}</text>')
    return f'<svg class="chart" role="img" viewBox="0 0 {WIDTH} {height}">{"".join(parts)}</svg>'

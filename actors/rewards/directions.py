"""GenEval's rule for the position of two boxes. Imports no torch."""

from __future__ import annotations

import math

Box = tuple[float, float, float, float]
"""Centre x and y, width and height, in one unit of length; y grows downwards."""

DIRECTIONS = ("left of", "right of", "above", "below")
"""The relations that boxes can decide."""


def directions(a: Box, b: Box, margin: float) -> set[str]:
    """The DIRECTIONS that hold from `a` to `b`: none, one, or two if `a` lies on a diagonal of `b`.

    GenEval's `relative_position` (arXiv 2310.11513): along each axis, the offset of the centres minus `margin` times
    the sum of both sizes must exceed half of the distance between the centres.
    """
    x, y = a[0] - b[0], a[1] - b[1]
    distance = math.hypot(x, y)
    clear_x = abs(x) - margin * (a[2] + b[2])
    clear_y = abs(y) - margin * (a[3] + b[3])
    found: set[str] = set()
    if clear_x > 0.5 * distance:
        found.add("left of" if x < 0 else "right of")
    if clear_y > 0.5 * distance:
        found.add("above" if y < 0 else "below")
    return found

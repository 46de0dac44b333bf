"""Rules for the order of two objects in depth, from their boxes and a depth map, beside those of `directions`.

Imports no torch. A depth map is one of nearness, as Depth-Anything-V2 predicts it: larger is nearer, without a unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actors.rewards.directions import DIRECTIONS, Box, directions

DEPTH_RELATIONS = (
    *DIRECTIONS, "in front of", "behind", "nearer than", "farther than", "larger than", "smaller than",
)  # fmt: skip
"""The relations that boxes and a depth map can decide."""
MIN_VISIBLE = 0.25
"""Share of a box outside the other box from which the other box is left out of its depth."""
_SPREAD = (5, 95)  # percentiles of the nearness of an image, whose distance is its range


@dataclass(frozen=True)
class Margins:
    """How clear an order must be."""

    box: float  # see `directions`
    depth: float  # fraction of the image's range of nearness
    size: float  # fraction by which the larger box must exceed the smaller one


def relations_of(a: Box, b: Box, nearness: np.ndarray, margins: Margins) -> set[str]:
    """The DEPTH_RELATIONS that hold from `a` to `b`. Boxes in fractions of the image; `nearness` [H, W].

    - left of, right of, above, below: see `directions`.
    - nearer than: n(a) - n(b) > margins.depth * (p95 - p5 of the image's nearness), n as in `nearness_in`.
    - in front of: nearer than, and the boxes overlap along x: |x_a - x_b| < (w_a + w_b) / 2.
    - larger than: the area of `a` exceeds (1 + margins.size) times that of `b`. It is the size in the image: that of a
      thing in the world needs a depth with a unit.
    - farther than, behind and smaller than: the same from `b` to `a`.
    """
    found = directions(a, b, margins.box)
    low, high = np.percentile(nearness, _SPREAD)
    difference = nearness_in(a, b, nearness) - nearness_in(b, a, nearness)
    if abs(difference) > margins.depth * (high - low):
        found.add("nearer than" if difference > 0 else "farther than")
        if abs(a[0] - b[0]) < (a[2] + b[2]) / 2:
            found.add("in front of" if difference > 0 else "behind")
    for words, one, other in (("larger than", a, b), ("smaller than", b, a)):
        if one[2] * one[3] > (1 + margins.size) * other[2] * other[3]:
            found.add(words)
    return found


def nearness_in(box: Box, other: Box, nearness: np.ndarray) -> float:
    """Median nearness of the pixels of `box`, without those of `other` if at least MIN_VISIBLE of the box remains.

    An object that is partly hidden has pixels of the object before it in its box, which say nothing about its depth.
    """
    inside = _mask(box, nearness.shape)
    alone = inside & ~_mask(other, nearness.shape)
    chosen = alone if alone.sum() >= MIN_VISIBLE * inside.sum() else inside
    return float(np.median(nearness[chosen]))


def _mask(box: Box, shape: tuple[int, ...]) -> np.ndarray:
    """Which pixels [H, W] have their centre in the box; at least one."""
    height, width = shape
    mask = np.zeros((height, width), bool)
    left, right = _range(box[0], box[2], width)
    top, bottom = _range(box[1], box[3], height)
    mask[top:bottom, left:right] = True
    return mask


def _range(centre: float, size: float, pixels: int) -> tuple[int, int]:
    first = min(max(round((centre - size / 2) * pixels), 0), pixels - 1)
    return first, min(max(round((centre + size / 2) * pixels), first + 1), pixels)

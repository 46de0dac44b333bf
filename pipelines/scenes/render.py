"""Renders scenes: 64 x 64 pixels, a 4 x 4 grid of cells, one object per cell with a little jitter.

One cell is one packed FLUX token and one merged Qwen2.5-VL token. Shapes are rendered from signed distances, so edges
are smooth. An object has a flat colour with faint shading and a soft shadow. The background is a pastel gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from pipelines.scenes.grammar import COLORS, SHAPES, Scene, SceneObject

SIZE = 64  # pixels
GRID = 4  # cells per side
CELL = SIZE // GRID
JITTER = 0.8  # pixels
DOMINANCE = 1.32  # a relation holds if the offset on its axis is this many times the other; no relation on a diagonal
RADIUS = {"circle": 6.6, "square": 5.9, "triangle": 4.3}  # circle: radius; square: half side; triangle: inradius

REACH = 14  # pixels; an object and its shadow lie within this distance of its centre

_Y, _X = np.mgrid[0:SIZE, 0:SIZE] + 0.5  # pixel centres
_OFFSET = {"left of": (1, 0), "right of": (-1, 0), "above": (0, 1), "below": (0, -1)}  # from subject to object


@dataclass(frozen=True)
class Placement:
    """An object with the centre of its bounding box, in pixels."""

    obj: SceneObject
    x: float
    y: float


class Neighborhood(NamedTuple):
    """The pixels around a centre, and their offsets from it."""

    region: tuple[slice, slice]  # rows, columns
    dx: np.ndarray  # [rows, columns], in pixels
    dy: np.ndarray  # [rows, columns], in pixels


def holds(relation: str, dx: float, dy: float) -> bool:
    """Returns whether `relation` holds if the object lies at (dx, dy) from the subject. y points downwards."""
    ux, uy = _OFFSET[relation]
    along, across = dx * ux + dy * uy, dx * uy + dy * ux
    return along > 0 and along >= DOMINANCE * abs(across)


def lay_out(scene: Scene, rng: np.random.Generator) -> tuple[Placement, ...]:
    """Places the objects in distinct cells, at random among the layouts in which every relation holds.

    Raises ValueError if no layout satisfies the scene.
    """
    cells: list[tuple[int, int]] = []

    def place(index: int) -> bool:
        if index == len(scene.objects):
            return True
        for cell in rng.permutation(GRID * GRID):
            x, y = int(cell % GRID), int(cell // GRID)
            if (x, y) in cells:
                continue
            if index:
                px, py = cells[scene.parents[index - 1]]
                if not holds(scene.words[index - 1], x - px, y - py):
                    continue
            cells.append((x, y))
            if place(index + 1):
                return True
            cells.pop()
        return False

    if not place(0):
        raise ValueError(f"no layout satisfies {scene.text!r}")
    return tuple(_in_cell(obj, x, y, rng) for obj, (x, y) in zip(scene.objects, cells, strict=True))


def with_missing(placements: Sequence[Placement], rng: np.random.Generator) -> tuple[Placement, ...]:
    """Returns the placements without one of them."""
    dropped = int(rng.integers(len(placements)))
    return tuple(p for i, p in enumerate(placements) if i != dropped)


def with_double(placements: Sequence[Placement], rng: np.random.Generator) -> tuple[Placement, ...]:
    """Returns the placements with one object doubled in a free cell."""
    obj = placements[int(rng.integers(len(placements)))].obj
    return (*placements, _in_cell(obj, *_free_cell(placements, rng), rng))


def with_recoloured(placements: Sequence[Placement], rng: np.random.Generator) -> tuple[Placement, ...]:
    """Returns the placements with one object in a colour that no other object has, or of another shape."""
    index = int(rng.integers(len(placements)))
    obj = placements[index].obj
    if rng.random() < 0.5:
        free = [color for color in COLORS if color not in {p.obj.color for p in placements}]
        obj = replace(obj, color=free[rng.integers(len(free))])
    else:
        obj = replace(obj, shape=[shape for shape in SHAPES if shape != obj.shape][rng.integers(2)])
    return tuple(replace(p, obj=obj) if i == index else p for i, p in enumerate(placements))


def render(placements: Sequence[Placement], rng: np.random.Generator) -> np.ndarray:
    """Renders the placements on a random pastel gradient. Returns uint8 [64, 64, 3]."""
    pixels = _pastel_gradient(rng)
    size = rng.uniform(0.95, 1.05, len(placements))
    for placed, scale in zip(placements, size, strict=True):
        near = around(placed.x, placed.y)
        shade = distance(placed.obj.shape, near.dx - 0.8, near.dy - 1.4, scale)
        pixels[near.region] *= 1.0 - 0.16 * np.clip(0.5 - shade / 3.0, 0.0, 1.0)[..., None]
    for placed, scale in zip(placements, size, strict=True):
        near = around(placed.x, placed.y)
        cover = np.clip(0.5 - distance(placed.obj.shape, near.dx, near.dy, scale), 0.0, 1.0)[..., None]
        light = 1.0 - 0.012 * near.dy[..., None]  # a little lighter at the top
        color = np.array(COLORS[placed.obj.color], dtype=np.float64)
        pixels[near.region] += cover * (color * light - pixels[near.region])
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def around(x: float, y: float) -> Neighborhood:
    """Returns the pixels that an object centred at (x, y) can touch."""
    top, left = max(0, round(y) - REACH), max(0, round(x) - REACH)
    region = slice(top, round(y) + REACH), slice(left, round(x) + REACH)
    return Neighborhood(region, _X[region] - x, _Y[region] - y)


def distance(shape: str, dx: np.ndarray, dy: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Returns the signed distance in pixels from offsets (dx, dy) to the outline of a shape. It is negative inside."""
    radius = RADIUS[shape] * scale
    if shape == "circle":
        return np.hypot(dx, dy) - radius
    if shape == "square":
        return np.maximum(np.abs(dx), np.abs(dy)) - radius
    dy = dy - radius / 2  # the centre of the bounding box lies half an inradius above the centroid of a triangle
    return np.maximum(dy, np.abs(dx) * np.sqrt(3) / 2 - dy / 2) - radius


def _in_cell(obj: SceneObject, x: int, y: int, rng: np.random.Generator) -> Placement:
    jx, jy = rng.uniform(-JITTER, JITTER, 2)
    return Placement(obj, (x + 0.5) * CELL + jx, (y + 0.5) * CELL + jy)


def _free_cell(placements: Sequence[Placement], rng: np.random.Generator) -> tuple[int, int]:
    taken = {(int(p.x // CELL), int(p.y // CELL)) for p in placements}
    free = [(x, y) for y in range(GRID) for x in range(GRID) if (x, y) not in taken]
    return free[rng.integers(len(free))]


def _pastel_gradient(rng: np.random.Generator) -> np.ndarray:
    start, end = rng.uniform(212, 250, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    t = 0.5 + ((_X - SIZE / 2) * np.cos(angle) + (_Y - SIZE / 2) * np.sin(angle)) / (SIZE * 1.42)
    return start + t[..., None] * (end - start)

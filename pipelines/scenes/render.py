"""Draws scenes: 64 x 64 pixels, a 4 x 4 grid of cells, one object a cell with a little jitter.

One cell is one packed FLUX token and one merged Qwen2.5-VL token. Shapes are drawn from signed distances, so edges are
smooth; an object keeps its flat colour, with a faint shading and a soft shadow on a pastel gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.scenes.grammar import COLORS, SHAPES, Scene, SceneObject

SIZE = 64  # pixels
GRID = 4  # cells a side
CELL = SIZE // GRID
JITTER = 0.8  # pixels
DOMINANCE = 1.32  # a relation holds where its axis' offset is this many times the other's; a diagonal is neither
RADIUS = {"circle": 6.6, "square": 5.9, "triangle": 4.3}  # circle: radius; square: half side; triangle: inradius

REACH = 14  # pixels from its centre within which an object and its shadow lie

_Y, _X = np.mgrid[0:SIZE, 0:SIZE] + 0.5  # pixel centres
_OFFSET = {"left of": (1, 0), "right of": (-1, 0), "above": (0, 1), "below": (0, -1)}  # from subject to object


@dataclass(frozen=True)
class Placement:
    """An object with the centre of its bounding box, in pixels."""

    obj: SceneObject
    x: float
    y: float


def holds(relation: str, dx: float, dy: float) -> bool:
    """Whether `relation` holds when the object lies (dx, dy) from the subject; y grows downwards."""
    ux, uy = _OFFSET[relation]
    along, across = dx * ux + dy * uy, dx * uy + dy * ux
    return along > 0 and along >= DOMINANCE * abs(across)


def lay_out(scene: Scene, rng: np.random.Generator) -> tuple[Placement, ...]:
    """Places the objects in distinct cells, at random among the ways in which every relation of the scene holds."""
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
    return tuple(_in_cell(thing, x, y, rng) for thing, (x, y) in zip(scene.objects, cells, strict=True))


def with_missing(placements: Sequence[Placement], rng: np.random.Generator) -> tuple[Placement, ...]:
    """One object left out."""
    gone = int(rng.integers(len(placements)))
    return tuple(p for i, p in enumerate(placements) if i != gone)


def with_double(placements: Sequence[Placement], rng: np.random.Generator) -> tuple[Placement, ...]:
    """One object drawn a second time in a free cell."""
    return (
        *placements,
        _in_cell(placements[int(rng.integers(len(placements)))].obj, *_free_cell(placements, rng), rng),
    )


def with_recoloured(placements: Sequence[Placement], rng: np.random.Generator) -> tuple[Placement, ...]:
    """One object in a colour, or of a shape, that no object of the scene has."""
    index = int(rng.integers(len(placements)))
    thing = placements[index].obj
    if rng.random() < 0.5:
        free = [color for color in COLORS if color not in {p.obj.color for p in placements}]
        thing = replace(thing, color=free[rng.integers(len(free))])
    else:
        thing = replace(thing, shape=[shape for shape in SHAPES if shape != thing.shape][rng.integers(2)])
    return tuple(replace(p, obj=thing) if i == index else p for i, p in enumerate(placements))


def render(placements: Sequence[Placement], rng: np.random.Generator) -> np.ndarray:
    """Draws the placements on a random pastel gradient. Returns uint8 [64, 64, 3]."""
    canvas = _pastel_gradient(rng)
    size = rng.uniform(0.95, 1.05, len(placements))
    for placed, scale in zip(placements, size, strict=True):
        part, dx, dy = around(placed.x, placed.y)
        shade = distance(placed.obj.shape, dx - 0.8, dy - 1.4, scale)
        canvas[part] *= 1.0 - 0.16 * np.clip(0.5 - shade / 3.0, 0.0, 1.0)[..., None]
    for placed, scale in zip(placements, size, strict=True):
        part, dx, dy = around(placed.x, placed.y)
        cover = np.clip(0.5 - distance(placed.obj.shape, dx, dy, scale), 0.0, 1.0)[..., None]
        light = 1.0 - 0.012 * dy[..., None]  # a little lighter at the top
        canvas[part] += cover * (np.array(COLORS[placed.obj.color], dtype=np.float64) * light - canvas[part])
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def around(x: float, y: float) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """The part of a picture that an object centred at (x, y) can touch: (its rows and columns, dx, dy from there)."""
    top, left = max(0, round(y) - REACH), max(0, round(x) - REACH)
    part = slice(top, round(y) + REACH), slice(left, round(x) + REACH)
    return part, _X[part] - x, _Y[part] - y


def distance(shape: str, dx: np.ndarray, dy: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Signed distance, in pixels, to the outline of a shape from (dx, dy) off its centre; negative inside."""
    radius = RADIUS[shape] * scale
    if shape == "circle":
        return np.hypot(dx, dy) - radius
    if shape == "square":
        return np.maximum(np.abs(dx), np.abs(dy)) - radius
    dy = dy - radius / 2  # the box's centre lies half an inradius above a triangle's centroid
    return np.maximum(dy, np.abs(dx) * np.sqrt(3) / 2 - dy / 2) - radius


def _in_cell(thing: SceneObject, x: int, y: int, rng: np.random.Generator) -> Placement:
    jx, jy = rng.uniform(-JITTER, JITTER, 2)
    return Placement(thing, (x + 0.5) * CELL + jx, (y + 0.5) * CELL + jy)


def _free_cell(placements: Sequence[Placement], rng: np.random.Generator) -> tuple[int, int]:
    taken = {(int(p.x // CELL), int(p.y // CELL)) for p in placements}
    free = [(x, y) for y in range(GRID) for x in range(GRID) if (x, y) not in taken]
    return free[rng.integers(len(free))]


def _pastel_gradient(rng: np.random.Generator) -> np.ndarray:
    start, end = rng.uniform(212, 250, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    t = 0.5 + ((_X - SIZE / 2) * np.cos(angle) + (_Y - SIZE / 2) * np.sin(angle)) / (SIZE * 1.42)
    return start + t[..., None] * (end - start)

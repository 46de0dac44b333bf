"""Reads a finished picture: which objects are there, once each, and which relations hold.

The checker sees pixels only. A pixel belongs to the nearest palette colour if it is near enough; a connected patch of
one colour is an object if it fits the outline of a shape. A second patch of the same colour, a patch that fits no
shape, or one far too small or large spoils that colour's object: doubled, merged and smeared objects do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from actors.types import Relation, objects_of
from pipelines.scenes.grammar import COLORS, OPPOSITE, SHAPES, SceneObject
from pipelines.scenes.render import RADIUS, around, distance, holds

NEAR = 72.0  # largest RGB distance of a pixel to its palette colour
SPECK = 12  # a patch of fewer pixels is noise
FIT = 0.72  # least intersection over union of a patch with a shape's outline
AREA = {"circle": np.pi, "square": 4.0, "triangle": 3.0 * np.sqrt(3.0)}  # in units of RADIUS squared
SCALES = (0.72, 1.25)  # an object's size relative to the renderer's

_PALETTE = np.array(list(COLORS.values()), dtype=np.float32)  # [6, 3]


@dataclass(frozen=True)
class Found:
    """An object seen exactly once, with the centre of its bounding box in pixels."""

    obj: SceneObject
    x: float
    y: float
    fit: float  # intersection over union with the ideal outline


@dataclass(frozen=True)
class Verdict:
    """What a picture shows of what a prompt asked for."""

    present: dict[str, bool]  # object name -> drawn cleanly, exactly once
    outcomes: tuple[str, ...]  # per relation: right | reversed | other | missing

    @property
    def right(self) -> int:
        """Number of relations that hold."""
        return self.outcomes.count("right")

    @property
    def perfect(self) -> bool:
        """Every object is present and every relation holds."""
        return all(self.present.values()) and self.right == len(self.outcomes)


def inspect(image: np.ndarray) -> tuple[Found, ...]:
    """Finds the clean objects of a uint8 [64, 64, 3] picture."""
    pixels = image.reshape(-1, 3).T.astype(np.float32)  # [3, H * W]
    # |p - c|^2, exact: every term is an integer that float32 holds.
    squared = (pixels**2).sum(0) - 2.0 * _PALETTE @ pixels + (_PALETTE**2).sum(1, keepdims=True)  # [6, H * W]
    nearest = np.where(squared.min(0) < NEAR**2, squared.argmin(0), -1).reshape(image.shape[:2])
    seen = np.bincount(nearest.ravel() + 1, minlength=len(COLORS) + 1)[1:]  # [6] pixels of each colour
    found = []
    for index, color in enumerate(COLORS):
        if seen[index] < SPECK:
            continue
        patches: np.ndarray
        patches, _ = ndimage.label(nearest == index)  # pyright: ignore[reportGeneralTypeIssues, reportAssignmentType]
        areas = np.bincount(patches.ravel())[1:]
        large = np.flatnonzero(areas >= SPECK)
        if len(large) == 1 and areas.sum() - areas[large[0]] <= SPECK:
            thing = _fit(color, patches == large[0] + 1)
            if thing:
                found.append(thing)
    return tuple(found)


def check(image: np.ndarray, relations: Sequence[Relation]) -> Verdict:
    """Judges a uint8 [64, 64, 3] picture against the relations of its prompt."""
    found = {thing.obj.name: thing for thing in inspect(image)}
    outcomes = tuple(_outcome(relation, found) for relation in relations)
    return Verdict({name: name in found for name in objects_of(relations)}, outcomes)


def _outcome(relation: Relation, found: dict[str, Found]) -> str:
    if relation.subject not in found or relation.object not in found:
        return "missing"
    subject, target = found[relation.subject], found[relation.object]
    dx, dy = target.x - subject.x, target.y - subject.y
    if holds(relation.relation, dx, dy):
        return "right"
    return "reversed" if holds(OPPOSITE[relation.relation], dx, dy) else "other"


def _fit(color: str, patch: np.ndarray) -> Found | None:
    """The shape whose outline of the same area fits the patch best, if one fits well enough."""
    rows, columns = np.flatnonzero(patch.any(1)), np.flatnonzero(patch.any(0))
    x, y = (columns[0] + columns[-1] + 1) / 2, (rows[0] + rows[-1] + 1) / 2
    area, best = int(patch.sum()), None
    part, dx, dy = around(x, y)  # the ideal outline lies in it; the patch need not
    for shape in SHAPES:
        scale = float(np.sqrt(area / AREA[shape]) / RADIUS[shape])
        if not SCALES[0] <= scale <= SCALES[1]:
            continue
        ideal = distance(shape, dx, dy, scale) < 0
        shared = int((ideal & patch[part]).sum())
        overlap = shared / (int(ideal.sum()) + area - shared)
        if overlap >= FIT and (best is None or overlap > best.fit):
            best = Found(SceneObject(color, shape), float(x), float(y), overlap)
    return best

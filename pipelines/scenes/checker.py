"""The exact checker: which objects an image shows exactly once, and which relations hold.

The checker reads pixels only. A pixel has the nearest palette colour if that is near enough. A connected patch of one
colour is an object if it fits the outline of a shape. A colour has no object if it has a second patch, or if its patch
fits no shape or has the wrong size. So doubled, merged and smeared objects do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from actors.types import Relation, objects_of
from conf.flux import EMBEDDED, FluxSettings
from pipelines.scenes.grammar import COLORS, OPPOSITE, SHAPES, SceneObject
from pipelines.scenes.render import RADIUS, SIZE, around, distance, holds

MAX_COLOR_DISTANCE = 72.0  # of a pixel to its palette colour, in RGB
MIN_PIXELS = 12  # a patch of fewer pixels is noise
MIN_IOU = 0.72  # intersection over union of a patch and the outline of a shape
AREA = {"circle": np.pi, "square": 4.0, "triangle": 3.0 * np.sqrt(3.0)}  # in units of RADIUS squared
MIN_SCALE, MAX_SCALE = 0.72, 1.25  # size of an object relative to the renderer's

RelationOutcome = Literal["right", "reversed", "other", "missing"]
"""right: the relation holds; reversed: its opposite holds; other: neither; missing: an object is not present."""

_PALETTE = np.array(list(COLORS.values()), dtype=np.float32)  # [6, 3]


@dataclass(frozen=True)
class Found:
    """An object that the image shows exactly once, with the centre of its bounding box in pixels."""

    obj: SceneObject
    x: float
    y: float
    iou: float  # intersection over union with the ideal outline


@dataclass(frozen=True)
class Verdict:
    """The checker's result for one image and the relations of its prompt."""

    present: dict[str, bool]  # object name -> shown cleanly, exactly once
    outcomes: tuple[RelationOutcome, ...]  # per relation
    unrequested: tuple[str, ...] = ()  # objects that are shown cleanly although the prompt does not name them

    @property
    def right(self) -> int:
        """Number of relations that hold."""
        return self.outcomes.count("right")

    @property
    def perfect(self) -> bool:
        """Every object is present, every relation holds, and no other object is shown."""
        return all(self.present.values()) and self.right == len(self.outcomes) and not self.unrequested


def can_check(flux: FluxSettings) -> bool:
    """Whether the images of a model are those that the checker is made for: scenes of 64 x 64 pixels."""
    return flux.model == EMBEDDED and (flux.height, flux.width) == (SIZE, SIZE)


def nearest_colors(image: np.ndarray) -> np.ndarray:
    """The palette colour of each pixel, [H, W], as its number in COLORS; -1: none is near. image: uint8 [H, W, 3]."""
    pixels = image.reshape(-1, 3).T.astype(np.float32)  # [3, H * W]
    # |p - c|^2, exact: every term is an integer that float32 holds.
    squared = (pixels**2).sum(0) - 2.0 * _PALETTE @ pixels + (_PALETTE**2).sum(1, keepdims=True)  # [6, H * W]
    return np.where(squared.min(0) < MAX_COLOR_DISTANCE**2, squared.argmin(0), -1).reshape(image.shape[:2])


def label_patches(mask: np.ndarray) -> np.ndarray:
    """The connected patches of a mask, bool [H, W], numbered from 1 in an array [H, W]; 0: outside."""
    patches: np.ndarray
    patches, _ = ndimage.label(mask)  # pyright: ignore[reportGeneralTypeIssues, reportAssignmentType]
    return patches


def inspect(image: np.ndarray) -> tuple[Found, ...]:
    """Finds the clean objects of an image, uint8 [64, 64, 3]."""
    nearest = nearest_colors(image)
    counts = np.bincount(nearest.ravel() + 1, minlength=len(COLORS) + 1)[1:]  # [6] pixels of each colour
    found: list[Found] = []
    for index, color in enumerate(COLORS):
        if counts[index] < MIN_PIXELS:
            continue
        patches = label_patches(nearest == index)
        areas = np.bincount(patches.ravel())[1:]
        large = np.flatnonzero(areas >= MIN_PIXELS)
        if len(large) == 1 and areas.sum() - areas[large[0]] <= MIN_PIXELS:
            obj = _fit(color, patches == large[0] + 1)
            if obj:
                found.append(obj)
    return tuple(found)


def check(image: np.ndarray, relations: Sequence[Relation]) -> Verdict:
    """Checks an image, uint8 [64, 64, 3], against the relations of its prompt."""
    found = {each.obj.name: each for each in inspect(image)}
    outcomes: list[RelationOutcome] = [_outcome(relation, found) for relation in relations]
    present = {name: name in found for name in objects_of(relations)}
    return Verdict(present, tuple(outcomes), tuple(name for name in found if name not in present))


def _outcome(relation: Relation, found: dict[str, Found]) -> RelationOutcome:
    if relation.subject not in found or relation.object not in found:
        return "missing"
    subject, target = found[relation.subject], found[relation.object]
    dx, dy = target.x - subject.x, target.y - subject.y
    if holds(relation.relation, dx, dy):
        return "right"
    return "reversed" if holds(OPPOSITE[relation.relation], dx, dy) else "other"


def _fit(color: str, patch: np.ndarray) -> Found | None:
    """Returns the shape whose outline of the same area fits the patch best, or None if none fits well enough."""
    rows, columns = np.flatnonzero(patch.any(1)), np.flatnonzero(patch.any(0))
    x, y = (columns[0] + columns[-1] + 1) / 2, (rows[0] + rows[-1] + 1) / 2
    area = int(patch.sum())
    best: Found | None = None
    near = around(x, y)  # contains the ideal outline, but not necessarily the whole patch
    for shape in SHAPES:
        scale = float(np.sqrt(area / AREA[shape]) / RADIUS[shape])
        if not MIN_SCALE <= scale <= MAX_SCALE:
            continue
        ideal = distance(shape, near.dx, near.dy, scale) < 0
        shared = int((ideal & patch[near.region]).sum())
        overlap = shared / (int(ideal.sum()) + area - shared)
        if overlap >= MIN_IOU and (best is None or overlap > best.iou):
            best = Found(SceneObject(color, shape), float(x), float(y), overlap)
    return best

"""Hard negatives of the scenes world: two images that differ in one property only, of which one shows the prompt.

The preference pairs show winner and loser in layouts of their own. Here both images have the same background and,
except for the one change, the same objects at the same places. The grammar has no negation, so there is no such kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from actors.types import Prompt
from pipelines.scenes.checker import check
from pipelines.scenes.grammar import LONG_OBJECTS, Scene, write_scene
from pipelines.scenes.render import CELL, GRID, SIZE, Placement, lay_out, render, with_double, with_missing

HardKind = Literal["mirrored", "colours swapped", "moved one cell", "missing", "doubled", "occluded", "exchanged"]
"""mirrored: left and right exchanged. colours swapped: two objects of different shapes exchange their colours.
moved one cell: an object is moved to a neighbouring cell, which breaks a relation. missing, doubled: one object.
occluded: one object covers most of another one. exchanged: two objects of the same shape exchange their places."""
HARD_KINDS: tuple[HardKind, ...] = get_args(HardKind)

_OCCLUDED_OFFSET = 4.0  # pixels between the centres; shapes are 12 to 15 pixels wide
_STEPS = ((1, 0), (-1, 0), (0, 1), (0, -1))
_Placements = tuple[Placement, ...]


@dataclass(frozen=True)
class HardNegative:
    """An image that shows its prompt, and one that does not."""

    kind: HardKind
    prompt: Prompt  # held out
    winner: np.ndarray  # uint8 [64, 64, 3]
    loser: np.ndarray  # uint8 [64, 64, 3]


def hard_negatives(kind: HardKind, count: int, seed: int) -> list[HardNegative]:
    """Draws `count` hard negatives of a kind under held-out prompts, half of them with two objects, half with three.

    The exact checker confirms every winner and every loser.
    """
    rng = np.random.default_rng([seed, HARD_KINDS.index(kind)])
    found: list[HardNegative] = []
    while len(found) < count:
        scene = write_scene(rng, LONG_OBJECTS if len(found) % 2 else 2, held_out=True)
        shown = lay_out(scene, rng)
        changed = _CHANGES[kind](scene, shown, rng)
        background = int(rng.integers(2**32))
        winner, loser = (render(each, np.random.default_rng(background)) for each in (shown, changed or shown))
        if check(winner, scene.relations).perfect and not check(loser, scene.relations).perfect:
            found.append(HardNegative(kind, scene.prompt(), winner, loser))
    return found


def _mirrored(scene: Scene, placements: _Placements, rng: np.random.Generator) -> _Placements:
    return tuple(replace(each, x=SIZE - each.x) for each in placements)


def _swap_colours(scene: Scene, placements: _Placements, rng: np.random.Generator) -> _Placements | None:
    pair = _two(scene, rng, same_shape=False)
    if pair is None:
        return None
    first, second = placements[pair[0]], placements[pair[1]]
    recoloured = (
        replace(first, obj=replace(first.obj, color=second.obj.color)),
        replace(second, obj=replace(second.obj, color=first.obj.color)),
    )
    return _with(placements, pair, recoloured)


def _exchange(scene: Scene, placements: _Placements, rng: np.random.Generator) -> _Placements | None:
    pair = _two(scene, rng, same_shape=True)
    if pair is None:
        return None
    first, second = placements[pair[0]], placements[pair[1]]
    return _with(placements, pair, (replace(first, obj=second.obj), replace(second, obj=first.obj)))


def _move(scene: Scene, placements: _Placements, rng: np.random.Generator) -> _Placements:
    """May leave every relation true. Then the checker refuses the pair."""
    taken = {_cell(each) for each in placements}
    moves: list[_Placements] = []
    for index, each in enumerate(placements):
        x, y = _cell(each)
        for dx, dy in _STEPS:
            if 0 <= x + dx < GRID and 0 <= y + dy < GRID and (x + dx, y + dy) not in taken:
                moved = replace(each, x=each.x + dx * CELL, y=each.y + dy * CELL)
                moves.append(_with(placements, (index,), (moved,)))
    return moves[rng.integers(len(moves))]


def _occlude(scene: Scene, placements: _Placements, rng: np.random.Generator) -> _Placements:
    """Moves an object onto another one, from its own side, so that the relation of their centres stays."""
    moved, fixed = (int(index) for index in rng.permutation(len(placements))[:2])
    dx, dy = placements[moved].x - placements[fixed].x, placements[moved].y - placements[fixed].y
    scale = _OCCLUDED_OFFSET / float(np.hypot(dx, dy))
    target = placements[fixed]
    onto = replace(placements[moved], x=target.x + dx * scale, y=target.y + dy * scale)
    return _with(placements, (moved,), (onto,))


def _drop(scene: Scene, placements: _Placements, rng: np.random.Generator) -> _Placements:
    return with_missing(placements, rng)


def _double(scene: Scene, placements: _Placements, rng: np.random.Generator) -> _Placements:
    return with_double(placements, rng)


def _two(scene: Scene, rng: np.random.Generator, *, same_shape: bool) -> tuple[int, int] | None:
    """Two related objects whose shapes are equal or not, at random; None if the scene has none."""
    related = [(parent, child) for child, parent in enumerate(scene.parents, start=1)]
    fitting = [
        (one, other) for one, other in related if (scene.objects[one].shape == scene.objects[other].shape) == same_shape
    ]
    return fitting[rng.integers(len(fitting))] if fitting else None


def _with(placements: _Placements, indices: Sequence[int], changed: Sequence[Placement]) -> _Placements:
    by_index = dict(zip(indices, changed, strict=True))
    return tuple(by_index.get(index, each) for index, each in enumerate(placements))


def _cell(placed: Placement) -> tuple[int, int]:
    return int(placed.x // CELL), int(placed.y // CELL)


_CHANGES: Mapping[HardKind, Callable[[Scene, _Placements, np.random.Generator], _Placements | None]] = {
    "mirrored": _mirrored,
    "colours swapped": _swap_colours,
    "moved one cell": _move,
    "missing": _drop,
    "doubled": _double,
    "occluded": _occlude,
    "exchanged": _exchange,
}

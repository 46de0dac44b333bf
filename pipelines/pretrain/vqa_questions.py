"""Short questions about scenes with exact answers. The tiny Qwen2.5-VL is pretrained on them.

Questions: where an object is, how many there are, how two objects are related, whether a sentence with one or two
relations is true. The reward model learns to rank images under whole prompts later. No held-out relation is stated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from actors.types import Relation
from pipelines.scenes.grammar import COLORS, RELATIONS, SHAPES, SceneObject, is_held_out
from pipelines.scenes.render import CELL, GRID, JITTER, Placement, holds

NUMBERS = ("zero", "one", "two", "three")
APART = "apart"  # the answer if two objects are on a diagonal, so that no relation holds
SQUARES = {(column + 1, row + 1): f"{'abcd'[column]}{row + 1}" for row in range(GRID) for column in range(GRID)}
_PALETTE = tuple(COLORS)
_Choice = TypeVar("_Choice")


@dataclass(frozen=True)
class QuestionAnswer:
    """A question without markup and its answer."""

    question: str
    answer: str


def scatter(rng: np.random.Generator) -> tuple[Placement, ...]:
    """Places two to five objects in distinct cells. In some scenes one is doubled or has the colour of another."""
    count = int(rng.integers(2, 6))
    colors, cells = rng.permutation(len(COLORS))[:count], rng.permutation(GRID * GRID)[:count]
    objects = [SceneObject(_PALETTE[c], _shape(rng)) for c in colors]
    if count > 2 and rng.random() < 0.35:
        objects[-1] = objects[0] if rng.random() < 0.6 else SceneObject(objects[0].color, _shape(rng))
    jitter = rng.uniform(-JITTER, JITTER, (count, 2))
    return tuple(
        Placement(obj, (cell % GRID + 0.5) * CELL + dx, (cell // GRID + 0.5) * CELL + dy)
        for obj, cell, (dx, dy) in zip(objects, cells, jitter, strict=True)
    )


def relation_between(first: Placement, second: Placement) -> str:
    """Returns the relation of the first object to the second, or APART."""
    dx, dy = second.x - first.x, second.y - first.y
    return next((word for word in RELATIONS if holds(word, dx, dy)), APART)


def ask(
    placements: Sequence[Placement],
    count: int,
    rng: np.random.Generator,
    relational: float = 0.6,
    missing: Sequence[SceneObject] = (),
) -> list[QuestionAnswer]:
    """Returns up to `count` different questions about an image of these placements.

    relational: share of questions about relations.
    missing: objects of the prompt that the image lacks. Most questions about absent objects are about these.
    """
    asked = {"list the objects": _list_objects(placements, rng)}
    single = [p for p in placements if _count(placements, p.obj) == 1]
    if comparisons := _compare_objects(single, rng):
        asked["compare the objects"] = comparisons
    for _ in range(2 * count):
        if len(asked) == count:
            break
        pair = _ask_one(placements, rng, relational, missing)
        if pair is not None:
            asked.setdefault(pair.question, pair.answer)
    return [QuestionAnswer(question, answer) for question, answer in asked.items()]


def _ask_one(
    placements: Sequence[Placement], rng: np.random.Generator, relational: float, missing: Sequence[SceneObject]
) -> QuestionAnswer | None:
    single = [p for p in placements if _count(placements, p.obj) == 1]
    if single and missing and rng.random() < relational / 2:
        return _ask_about_missing(_pick(single, rng).obj, _pick(missing, rng), rng)
    if len(single) >= 2 and rng.random() < relational:
        chosen = [single[i] for i in rng.permutation(len(single))[:3]]
        kind = rng.random()
        if len(chosen) == 3 and kind < 0.5:
            return _ask_two_relations(chosen, rng)
        first, second = chosen[:2]
        return _ask_where(first, second) if kind < 0.65 else _ask_whether(first, second, placements, rng)
    kind = rng.random()
    if single and kind < 0.5:
        return _ask_attribute(_pick(single, rng), placements, rng)
    asked = _pick(missing, rng) if missing and rng.random() < 0.5 else _similar(placements, rng)
    number = _count(placements, asked)
    if kind < 0.75:
        return QuestionAnswer(f"is there a {asked.name}", "yes" if number else "no")
    return QuestionAnswer(f"how many {asked.name}s", NUMBERS[number])


def _ask_about_missing(present: SceneObject, missing: SceneObject, rng: np.random.Generator) -> QuestionAnswer | None:
    """Asks about a relation between a present and an absent object, which is always false."""
    a, b = (present, missing) if rng.random() < 0.5 else (missing, present)
    return _yes_or_no(a, _pick(RELATIONS, rng), b, APART)


def _ask_attribute(placed: Placement, placements: Sequence[Placement], rng: np.random.Generator) -> QuestionAnswer:
    """Asks where an object is on the grid, or which shape a colour has.

    The object can be named by its colour alone if that is unambiguous.
    """
    alone = sum(p.obj.color == placed.obj.color for p in placements) == 1
    name = f"{placed.obj.color} object" if alone and rng.random() < 0.5 else placed.obj.name
    if alone and rng.random() < 0.2:
        return QuestionAnswer(f"what shape is the {placed.obj.color} object", placed.obj.shape)
    column, row = _cell(placed)
    axis, number = ("column", column) if rng.random() < 0.5 else ("row", row)
    return QuestionAnswer(f"what {axis} is the {name} in", str(number))


def _ask_where(first: Placement, second: Placement) -> QuestionAnswer | None:
    word = relation_between(first, second)
    if word != APART and is_held_out([Relation(first.obj.name, word, second.obj.name)]):
        return None
    return QuestionAnswer(f"where is the {first.obj.name} from the {second.obj.name}", word)


def _ask_whether(
    first: Placement, second: Placement, placements: Sequence[Placement], rng: np.random.Generator
) -> QuestionAnswer | None:
    """Asks e.g. "is a red circle left of a blue square".

    True half the time; false because of the relation or because an object is absent.
    """
    a, b, truth = first.obj, second.obj, relation_between(first, second)
    stated = truth if truth != APART and rng.random() < 0.55 else RELATIONS[rng.integers(len(RELATIONS))]
    if rng.random() < 0.2:
        absent = _similar(placements, rng)
        if _count(placements, absent):
            return None
        a, b, truth = (absent, b, APART) if rng.random() < 0.5 else (a, absent, APART)
    return _yes_or_no(a, stated, b, truth)


def _yes_or_no(a: SceneObject, stated: str, b: SceneObject, truth: str) -> QuestionAnswer | None:
    """Asks whether a stated relation is the true one; None if it is held out or the two objects are equal."""
    if a == b or is_held_out([Relation(a.name, stated, b.name)]):
        return None
    return QuestionAnswer(f"is a {a.name} {stated} a {b.name}", "yes" if stated == truth else "no")


def _ask_two_relations(chosen: Sequence[Placement], rng: np.random.Generator) -> QuestionAnswer | None:
    """Asks e.g. "is a red circle left of a blue square and above a green triangle" (or "that is above").

    False if one of the two pairs is on a diagonal, and for a third of the other cases: one or both words are wrong.
    """
    parent = int(rng.integers(2))
    words = [relation_between(chosen[0], chosen[1]), relation_between(chosen[parent], chosen[2])]
    true = APART not in words
    if true and rng.random() >= 0.7:
        true = False
        for i in rng.permutation(2)[: 1 if rng.random() < 0.75 else 2]:
            words[i] = [word for word in RELATIONS if word != words[i]][int(rng.integers(3))]
    words = [_pick(RELATIONS, rng) if word == APART else word for word in words]
    a, b, c = (placed.obj.name for placed in chosen)
    if is_held_out([Relation(a, words[0], b), Relation((a, b)[parent], words[1], c)]):
        return None
    link = ("and", "that is")[parent]
    return QuestionAnswer(f"is a {a} {words[0]} a {b} {link} {words[1]} a {c}", "yes" if true else "no")


def _list_objects(placements: Sequence[Placement], rng: np.random.Generator) -> str:
    """Lists all objects in random order, each followed by its square as on a chessboard ("red circle b3").

    The square depends only on the preceding words. The model learns to locate an object at the end of its name, which
    it needs to compare two objects of a sentence.
    """
    return " , ".join(
        f"{p.obj.name} {SQUARES[_cell(p)]}" for p in (placements[i] for i in rng.permutation(len(placements)))
    )


def _compare_objects(single: Sequence[Placement], rng: np.random.Generator) -> str:
    """Lists up to six pairs of objects, each followed by the relation of the first to the second."""
    pairs: list[str] = []
    indices = [(i, j) for i in range(len(single)) for j in range(len(single)) if i != j]
    for i, j in (indices[k] for k in rng.permutation(len(indices))):
        first, second = single[i].obj, single[j].obj
        word = relation_between(single[i], single[j])
        if word == APART or not is_held_out([Relation(first.name, word, second.name)]):
            pairs.append(f"{first.name} {second.name} {word}")
    return " , ".join(pairs[:6])


def _similar(placements: Sequence[Placement], rng: np.random.Generator) -> SceneObject:
    """Returns one of the objects in the image, or the same with a random shape or a random colour."""
    obj = _pick(placements, rng).obj
    choice = rng.random()
    if choice < 0.3:
        return obj
    return SceneObject(obj.color, _shape(rng)) if choice < 0.7 else SceneObject(_color(rng), obj.shape)


def _pick(choices: Sequence[_Choice], rng: np.random.Generator) -> _Choice:
    return choices[int(rng.integers(len(choices)))]


def _cell(placed: Placement) -> tuple[int, int]:
    """Returns column and row, from 1."""
    return int(placed.x // CELL) + 1, int(placed.y // CELL) + 1


def _count(placements: Sequence[Placement], obj: SceneObject) -> int:
    return sum(p.obj == obj for p in placements)


def _color(rng: np.random.Generator) -> str:
    return _PALETTE[int(rng.integers(len(_PALETTE)))]


def _shape(rng: np.random.Generator) -> str:
    return SHAPES[int(rng.integers(len(SHAPES)))]

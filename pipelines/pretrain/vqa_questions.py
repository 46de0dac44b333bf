"""Short questions about drawn scenes, with their exact answers: what the tiny Qwen2.5-VL is pretrained on.

Where an object is, how many there are, how two objects stand to each other, whether a sentence with one or two
relations is true. Ranking pictures under whole prompts is left to the reward model. No held-out relation is stated.
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
APART = "apart"  # the answer where two objects stand in no relation: a diagonal
SQUARES = {(column + 1, row + 1): f"{'abcd'[column]}{row + 1}" for row in range(GRID) for column in range(GRID)}
_PALETTE = tuple(COLORS)
_Choice = TypeVar("_Choice")


@dataclass(frozen=True)
class QuestionAnswer:
    """A question without markup, and its answer."""

    question: str
    answer: str


def scatter(rng: np.random.Generator) -> tuple[Placement, ...]:
    """Two to five objects in distinct cells of the grid; now and then one is doubled or shares another's colour."""
    count = int(rng.integers(2, 6))
    colors, cells = rng.permutation(len(COLORS))[:count], rng.permutation(GRID * GRID)[:count]
    things = [SceneObject(_PALETTE[c], _shape(rng)) for c in colors]
    if count > 2 and rng.random() < 0.35:
        things[-1] = things[0] if rng.random() < 0.6 else SceneObject(things[0].color, _shape(rng))
    jitter = rng.uniform(-JITTER, JITTER, (count, 2))
    return tuple(
        Placement(thing, (cell % GRID + 0.5) * CELL + dx, (cell // GRID + 0.5) * CELL + dy)
        for thing, cell, (dx, dy) in zip(things, cells, jitter, strict=True)
    )


def between(first: Placement, second: Placement) -> str:
    """How the first object stands to the second: one of the four relations, or APART."""
    dx, dy = second.x - first.x, second.y - first.y
    return next((word for word in RELATIONS if holds(word, dx, dy)), APART)


def ask(
    placements: Sequence[Placement], count: int, rng: np.random.Generator, relational: float = 0.6,
    missing: Sequence[SceneObject] = (),
) -> list[QuestionAnswer]:  # fmt: skip
    """Up to `count` different questions about a picture of these placements, a share of them about relations.

    Where objects are `missing`, most questions that are answered by an absence are about those.
    """
    asked = {"list the objects": _listing(placements, rng)}
    single = [p for p in placements if _count(placements, p.obj) == 1]
    if comparisons := _comparisons(single, rng):
        asked["compare the objects"] = comparisons
    for _ in range(2 * count):
        if len(asked) == count:
            break
        one = _ask_one(placements, rng, relational, missing)
        if one is not None:
            asked.setdefault(one.question, one.answer)
    return [QuestionAnswer(question, answer) for question, answer in asked.items()]


def _ask_one(
    placements: Sequence[Placement], rng: np.random.Generator, relational: float, missing: Sequence[SceneObject]
) -> QuestionAnswer | None:
    single = [p for p in placements if _count(placements, p.obj) == 1]
    if single and missing and rng.random() < relational / 2:
        return _of_missing(_pick(single, rng).obj, _pick(missing, rng), rng)
    if len(single) >= 2 and rng.random() < relational:
        chosen = [single[i] for i in rng.permutation(len(single))[:3]]
        kind = rng.random()
        if len(chosen) == 3 and kind < 0.5:
            return _two_relations(chosen, rng)
        first, second = chosen[:2]
        return _where(first, second) if kind < 0.65 else _statement(first, second, placements, rng)
    kind = rng.random()
    if single and kind < 0.5:
        return _attribute(_pick(single, rng), placements, rng)
    asked = _pick(missing, rng) if missing and rng.random() < 0.5 else _near(placements, rng)
    number = _count(placements, asked)
    if kind < 0.75:
        return QuestionAnswer(f"is there a {asked.name}", "yes" if number else "no")
    return QuestionAnswer(f"how many {asked.name}s", NUMBERS[number])


def _of_missing(there: SceneObject, missing: SceneObject, rng: np.random.Generator) -> QuestionAnswer | None:
    """A statement about an object that is there and one that is not, which is false whatever the relation."""
    a, b = (there, missing) if rng.random() < 0.5 else (missing, there)
    return _judged(a, _pick(RELATIONS, rng), b, APART)


def _attribute(seen: Placement, placements: Sequence[Placement], rng: np.random.Generator) -> QuestionAnswer:
    """Where an object is on the grid, or which shape a colour has; by the colour alone where that is unambiguous."""
    alone = sum(p.obj.color == seen.obj.color for p in placements) == 1
    name = f"{seen.obj.color} object" if alone and rng.random() < 0.5 else seen.obj.name
    if alone and rng.random() < 0.2:
        return QuestionAnswer(f"what shape is the {seen.obj.color} object", seen.obj.shape)
    column, row = _cell(seen)
    axis, number = ("column", column) if rng.random() < 0.5 else ("row", row)
    return QuestionAnswer(f"what {axis} is the {name} in", str(number))


def _where(first: Placement, second: Placement) -> QuestionAnswer | None:
    word = between(first, second)
    if word != APART and is_held_out([Relation(first.obj.name, word, second.obj.name)]):
        return None
    return QuestionAnswer(f"where is the {first.obj.name} from the {second.obj.name}", word)


def _statement(
    first: Placement, second: Placement, placements: Sequence[Placement], rng: np.random.Generator
) -> QuestionAnswer | None:
    """'is a red circle left of a blue square': true half the time; false by the relation or by an absent object."""
    a, b, truth = first.obj, second.obj, between(first, second)
    said = truth if truth != APART and rng.random() < 0.55 else RELATIONS[rng.integers(len(RELATIONS))]
    if rng.random() < 0.2:
        absent = _near(placements, rng)
        if _count(placements, absent):
            return None
        a, b, truth = (absent, b, APART) if rng.random() < 0.5 else (a, absent, APART)
    return _judged(a, said, b, truth)


def _judged(a: SceneObject, said: str, b: SceneObject, truth: str) -> QuestionAnswer | None:
    """Whether it is true what is `said` of two objects; None where that may not be asked."""
    if a == b or is_held_out([Relation(a.name, said, b.name)]):
        return None
    return QuestionAnswer(f"is a {a.name} {said} a {b.name}", "yes" if said == truth else "no")


def _two_relations(chosen: Sequence[Placement], rng: np.random.Generator) -> QuestionAnswer | None:
    """'is a red circle left of a blue square and above a green triangle' (or 'that is above').

    False where one of the two pairs stands on a diagonal, and for a third of the others: by one word or by both.
    """
    parent = int(rng.integers(2))
    words = [between(chosen[0], chosen[1]), between(chosen[parent], chosen[2])]
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


def _listing(placements: Sequence[Placement], rng: np.random.Generator) -> str:
    """All objects, each followed by its square as on a chessboard ("red circle b3"), in random order.

    The square follows from the words just said: so the model learns to find an object where its name ends, which is
    what comparing two objects of a sentence builds on.
    """
    return " , ".join(
        f"{p.obj.name} {SQUARES[_cell(p)]}" for p in (placements[i] for i in rng.permutation(len(placements)))
    )


def _comparisons(single: Sequence[Placement], rng: np.random.Generator) -> str:
    """Up to six pairs of objects, each followed by how the first stands to the second."""
    told: list[str] = []
    order = [(i, j) for i in range(len(single)) for j in range(len(single)) if i != j]
    for i, j in (order[k] for k in rng.permutation(len(order))):
        first, second = single[i].obj, single[j].obj
        word = between(single[i], single[j])
        if word == APART or not is_held_out([Relation(first.name, word, second.name)]):
            told.append(f"{first.name} {second.name} {word}")
    return " , ".join(told[:6])


def _near(placements: Sequence[Placement], rng: np.random.Generator) -> SceneObject:
    """One of the picture's objects, or one like it: of any shape, or of any colour."""
    seen = _pick(placements, rng).obj
    choice = rng.random()
    if choice < 0.3:
        return seen
    return SceneObject(seen.color, _shape(rng)) if choice < 0.7 else SceneObject(_color(rng), seen.shape)


def _pick(choices: Sequence[_Choice], rng: np.random.Generator) -> _Choice:
    return choices[int(rng.integers(len(choices)))]


def _cell(placed: Placement) -> tuple[int, int]:
    """Column and row, from 1."""
    return int(placed.x // CELL) + 1, int(placed.y // CELL) + 1


def _count(placements: Sequence[Placement], thing: SceneObject) -> int:
    return sum(p.obj == thing for p in placements)


def _color(rng: np.random.Generator) -> str:
    return _PALETTE[int(rng.integers(len(_PALETTE)))]


def _shape(rng: np.random.Generator) -> str:
    return SHAPES[int(rng.integers(len(SHAPES)))]

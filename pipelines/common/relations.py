"""The algebra of spatial relations: whether statements are equivalent, contradict each other, or cannot all be true.

As in the scenes world, a direction is the dominant one: an object left of another is not also above or behind it.

    inverse     A left of B   =  B right of A
    symmetric   A next to B   =  B next to A
    transitive  A left of B and B left of C  =>  A left of C
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from actors.types import Relation

EditKind = Literal["flip", "swap", "turn"]

# Per axis: the words for one direction, then the words for its inverse.
_DIRECTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "left": (
        ("left of", "to the left of", "on the left side of"),
        ("right of", "to the right of", "on the right side of"),
    ),
    "above": (("above", "on top of", "over"), ("below", "beneath", "underneath", "under")),
    "front": (("in front of",), ("behind",)),
    "inside": (("inside",), ("surrounding",)),
}
_SYMMETRIC: dict[str, tuple[str, ...]] = {
    "near": ("next to", "beside", "close to"),
    "far": ("far from",),
    "facing": ("facing", "opposite", "across from"),
    "aligned": ("aligned with", "level with"),
}
_PARTS: dict[str, tuple[str, ...]] = {
    "left part": ("at the left edge of", "at the left end of"),
    "right part": ("at the right edge of", "at the right end of"),
    "front part": ("at the front edge of",),
    "back part": ("at the back edge of",),
    "middle": ("in the center of", "in the middle of"),
    "upper-left part": ("in the upper-left corner of",),
    "upper-right part": ("in the upper-right corner of",),
    "lower-left part": ("in the lower-left corner of",),
    "lower-right part": ("in the lower-right corner of",),
}
BETWEEN = "between"  # its object is two names joined by " and "

# Words -> (sense, whether they express its inverse).
_SENSES: dict[str, tuple[str, bool]] = {
    **{
        word: (axis, inverse)
        for axis, directions in _DIRECTIONS.items()
        for inverse in (False, True)
        for word in directions[inverse]
    },
    **{word: (sense, False) for table in (_SYMMETRIC, _PARTS) for sense, words in table.items() for word in words},
    BETWEEN: (BETWEEN, False),
}
WORDINGS = tuple(_SENSES)
"""Every relation that the algebra knows, in the words of a prompt."""


class Fact(NamedTuple):
    """The canonical form of a statement. Equivalent statements have equal facts."""

    sense: str
    first: str
    second: str


def canonical(relation: Relation) -> Fact:
    """Returns the canonical form of a relation. Raises KeyError if its words are not in WORDINGS."""
    sense, inverse = _SENSES[relation.relation]
    first, second = (relation.object, relation.subject) if inverse else (relation.subject, relation.object)
    if sense in _SYMMETRIC and second < first:
        first, second = second, first
    if sense == BETWEEN:
        second = " and ".join(sorted(second.split(" and ")))
    return Fact(sense, first, second)


def contradicts(before: Relation, after: Relation) -> bool:
    """Returns whether two relations of the same two objects cannot both be true."""
    one, other = canonical(before), canonical(after)
    if one == other or {before.subject, before.object} != {after.subject, after.object}:
        return False
    senses = {one.sense, other.sense}
    parts = senses <= _PARTS.keys() and before.subject == after.subject
    return parts or senses <= _DIRECTIONS.keys() or senses == {"near", "far"}


def implied(relations: Iterable[Relation]) -> set[Fact]:
    """Returns all facts that the relations state or that follow from them by transitivity."""
    facts = {canonical(relation) for relation in relations}
    while True:
        chained = {
            Fact(sense, a, d)
            for sense, a, b in facts
            if sense in _DIRECTIONS
            for other, c, d in facts
            if sense == other and b == c
        }
        if chained <= facts:
            return facts
        facts |= chained


def find_contradiction(relations: Sequence[Relation]) -> str:
    """Returns why the relations cannot all be true or are redundant; "" if they are neither."""
    if len({canonical(relation) for relation in relations}) < len(relations):
        return "a relation is stated twice"
    facts = implied(relations)
    for sense, first, second in facts:
        if sense in _DIRECTIONS and (first == second or Fact(sense, second, first) in facts):
            return f"{first!r} and {second!r} would each be {sense} of the other"
    for i, one in enumerate(relations):
        for other in relations[:i]:
            if contradicts(one, other):
                return f"{one.subject!r} cannot be both {one.relation!r} and {other.relation!r} as stated"
    return ""


def edit_kind(before: Relation, after: Relation) -> EditKind:
    """Returns how a relation was changed.

    flip: to the opposite; swap: objects exchanged, same words; turn: to another direction.
    """
    if (after.subject, after.object) == (before.object, before.subject):
        return "swap"
    (sense, inverse), (other, other_inverse) = _SENSES[before.relation], _SENSES[after.relation]
    return "flip" if sense == other and inverse != other_inverse else "turn"


def split_group(relations: Iterable[Relation]) -> str:
    """Returns an id that is equal for prompts that relate the same pairs of objects, whatever their relations.

    A prompt, its equivalents and its perturbations are one group, so a split never separates them.
    """
    related = sorted("|".join(sorted((relation.subject, relation.object))) for relation in relations)
    return hashlib.blake2b(";".join(related).encode(), digest_size=6).hexdigest()

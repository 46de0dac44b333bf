"""The algebra of spatial relations: when two statements say the same, deny each other, or cannot all be true.

A direction is the one that dominates, as in the scenes world: what is left of something is not above or behind it.

    inverse     A left of B   =  B right of A
    symmetric   A next to B   =  B next to A
    transitive  A left of B and B left of C  =>  A left of C
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from actors.types import Relation

# Each axis: the words for one direction, then those for its inverse.
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

_SENSES: dict[str, tuple[str, bool]] = {
    **{
        word: (axis, turned)
        for axis, sides in _DIRECTIONS.items()
        for turned in (False, True)
        for word in sides[turned]
    },
    **{word: (sense, False) for table in (_SYMMETRIC, _PARTS) for sense, words in table.items() for word in words},
    BETWEEN: (BETWEEN, False),
}
WORDINGS = tuple(_SENSES)
"""Every relation that the algebra knows, in the words of a prompt."""

Fact = tuple[str, str, str]
"""(sense, first, second): equal for two statements that say the same."""


def canonical(relation: Relation) -> Fact:
    """Raises KeyError for words that are not among WORDINGS."""
    sense, turned = _SENSES[relation.relation]
    first, second = (relation.object, relation.subject) if turned else (relation.subject, relation.object)
    if sense in _SYMMETRIC and second < first:
        first, second = second, first
    if sense == BETWEEN:
        second = " and ".join(sorted(second.split(" and ")))
    return sense, first, second


def contradicts(before: Relation, after: Relation) -> bool:
    """Whether both, of the same two objects, cannot be true."""
    one, other = canonical(before), canonical(after)
    if one == other or {before.subject, before.object} != {after.subject, after.object}:
        return False
    kinds = {one[0], other[0]}
    parts = kinds <= _PARTS.keys() and before.subject == after.subject
    return parts or kinds <= _DIRECTIONS.keys() or kinds == {"near", "far"}


def implied(relations: Iterable[Relation]) -> set[Fact]:
    """All facts that the relations state or that follow from them by transitivity."""
    facts = {canonical(relation) for relation in relations}
    while True:
        chained = {
            (sense, a, d)
            for sense, a, b in facts
            if sense in _DIRECTIONS
            for other, c, d in facts
            if sense == other and b == c
        }
        if chained <= facts:
            return facts
        facts |= chained


def find_contradiction(relations: Sequence[Relation]) -> str:
    """Why the relations cannot all be true, or say a thing twice; "" if they can and do not."""
    if len({canonical(relation) for relation in relations}) < len(relations):
        return "a relation is stated twice"
    facts = implied(relations)
    for sense, first, second in facts:
        if sense in _DIRECTIONS and (first == second or (sense, second, first) in facts):
            return f"{first!r} and {second!r} would each be {sense} of the other"
    for i, one in enumerate(relations):
        for other in relations[:i]:
            if contradicts(one, other):
                return f"{one.subject!r} cannot be both {one.relation!r} and, as said, {other.relation!r}"
    return ""


def edit_kind(before: Relation, after: Relation) -> str:
    """flip (to the opposite), swap (objects exchanged, same words) or turn (to another direction)."""
    if (after.subject, after.object) == (before.object, before.subject):
        return "swap"
    (sense, turned), (other, other_turned) = _SENSES[before.relation], _SENSES[after.relation]
    return "flip" if sense == other and turned != other_turned else "turn"


def split_group(relations: Iterable[Relation]) -> str:
    """Equal for prompts about the same objects tied in the same way, whatever the relations: a prompt, its equivalents
    and its perturbations are one group, so none of them can be on both sides of a split."""
    ties = sorted("|".join(sorted((relation.subject, relation.object))) for relation in relations)
    return hashlib.blake2b(";".join(ties).encode(), digest_size=6).hexdigest()

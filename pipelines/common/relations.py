"""The vocabulary of spatial relations in prompts: what each wording means, and which statements exclude each other.

A statement places its subject on the axes x (left to right), y (top to bottom) and z (front to back), as the viewer
sees them, or says how the two objects touch. The axes are independent, as in photographs: an object can be to the left
of another one and behind it. So only statements about the same axis, or about contact, can contradict each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple

from actors.types import Relation

Axis = Literal["x", "y", "z"]
Contact = Literal["on", "on top", "in", "beside", "against", "near", "far", "between", "facing", "opposite", "aligned"]
EditKind = Literal["flip", "swap", "turn"]

BETWEEN = ("between", "centered between")
"""Wordings whose object is two names joined by " and "."""

SYMMETRIC: frozenset[Contact] = frozenset({"beside", "against", "near", "far", "opposite", "aligned"})
_NEAR: frozenset[Contact] = frozenset({"on", "on top", "in", "beside", "against", "near"})
_EXCLUSIVE: frozenset[frozenset[Contact]] = frozenset(
    {frozenset((contact, "far")) for contact in _NEAR}
    | {frozenset(("beside", contact)) for contact in ("on", "on top", "in")}
    | {frozenset(("on top", "in"))}
)
"""Contacts that two objects cannot have at once. "on" and "in" can both be true, as of a shelf."""


@dataclass(frozen=True)
class Meaning:
    """What a wording says about its subject and its object."""

    position: Mapping[Axis, int] = field(default_factory=lambda: MappingProxyType({}))
    """Axis -> -1: the subject is left of, above or in front of the object, or of its middle; 0: in its middle; 1."""
    part: bool = False
    """The position is one within the object, such as its left edge."""
    contact: Contact | None = None
    inverse: bool = False
    """The contact is that of the object to the subject: "surrounding" is the inverse of "inside"."""


def _position(part: bool = False, contact: Contact | None = None, **position: int) -> Meaning:
    places: dict[Axis, int] = {axis: position[axis] for axis in ("x", "y", "z") if axis in position}
    return Meaning(MappingProxyType(places), part, contact)


def _edges(side: str) -> tuple[str, ...]:
    """The wordings for an outer part of an object, e.g. its left edge."""
    places = [f"{at} the {side} {edge} of" for at in ("at", "on", "along") for edge in ("edge", "end", "side")]
    return (*places, f"on the {side}-hand side of")


_WORDINGS: tuple[tuple[Meaning, tuple[str, ...]], ...] = (
    (_position(x=-1), ("left of", "to the left of", "to the left side of")),
    (_position(x=1), ("right of", "to the right of", "to the right side of")),
    (_position(y=-1), ("above", "over")),
    (_position(y=1), ("below", "beneath", "underneath", "under")),
    (_position(z=-1), ("in front of",)),
    (_position(z=1), ("behind",)),
    (_position(x=0, y=-1), ("centered above", "centered over")),
    (_position(x=0, y=1), ("centered below", "centered beneath", "centered under")),
    (_position(x=0, z=-1), ("centered in front of",)),
    (_position(x=0, z=1), ("centered behind",)),
    (_position(part=True, x=-1), _edges("left")),
    (_position(part=True, x=1), _edges("right")),
    (_position(part=True, z=-1), _edges("front")),
    (_position(part=True, z=1), _edges("back")),
    (_position(part=True, y=-1), _edges("top")),
    (_position(part=True, y=1), _edges("bottom")),
    (_position(part=True, x=-1, y=-1), ("in the upper-left corner of", "in the top-left corner of")),
    (_position(part=True, x=1, y=-1), ("in the upper-right corner of", "in the top-right corner of")),
    (_position(part=True, x=-1, y=1), ("in the lower-left corner of", "in the bottom-left corner of")),
    (_position(part=True, x=1, y=1), ("in the lower-right corner of", "in the bottom-right corner of")),
    (_position(part=True, x=-1, z=-1), ("in the front-left corner of",)),
    (_position(part=True, x=1, z=-1), ("in the front-right corner of",)),
    (_position(part=True, x=-1, z=1), ("in the back-left corner of",)),
    (_position(part=True, x=1, z=1), ("in the back-right corner of",)),
    (_position(part=True, x=0, y=0, z=0), ("in the center of", "at the center of", "in the middle of")),
    (_position(part=True, contact="on", x=0, z=0), ("centered on",)),
    (_position(part=True, contact="in", x=0, z=0), ("centered in",)),
    (Meaning(contact="on"), ("on",)),
    (Meaning(contact="on top"), ("on top of",)),
    (Meaning(contact="in"), ("in", "inside", "within")),
    (Meaning(contact="in", inverse=True), ("surrounding", "enclosing")),
    (Meaning(contact="beside"), ("next to", "beside", "alongside", "adjacent to")),
    (Meaning(contact="against"), ("against",)),
    (Meaning(contact="near"), ("near", "close to")),
    (Meaning(contact="far"), ("far from", "far away from")),
    (Meaning(contact="between"), BETWEEN),
    (Meaning(contact="facing"), ("facing",)),
    (Meaning(contact="opposite"), ("opposite", "across from")),
    (Meaning(contact="aligned"), ("aligned with", "level with", "in line with")),
)
MEANINGS: Mapping[str, Meaning] = MappingProxyType(
    {wording: meaning for meaning, wordings in _WORDINGS for wording in wordings}
)
WORDINGS = tuple(MEANINGS)
"""Every relation that is known, in the words of a prompt."""

FIXED = tuple(word for word, meaning in MEANINGS.items() if meaning.contact in ("facing", "opposite", "aligned"))
"""Wordings without a perturbation: no other statement about the same objects is sure to exclude them."""


class Fact(NamedTuple):
    """One part of what a statement says. Equivalent statements have equal facts.

    `sense` is an axis (first comes before second on it: further left, higher, further in front), a part of an object
    such as "x=-1", or a contact.
    """

    sense: str
    first: str
    second: str


def facts_of(relation: Relation) -> frozenset[Fact]:
    """Returns what a relation states, in canonical form. Raises KeyError if its words are not in WORDINGS."""
    meaning, subject, other = MEANINGS[relation.relation], relation.subject, relation.object
    facts: set[Fact] = set()
    for axis, value in meaning.position.items():
        if meaning.part or not value:
            facts.add(Fact(f"{axis}={value}", subject, other))
        else:
            facts.add(Fact(axis, subject, other) if value < 0 else Fact(axis, other, subject))
    contact = meaning.contact
    if contact == "between":
        facts.add(Fact(contact, subject, " and ".join(sorted(other.split(" and ")))))
    elif contact:
        reverse = meaning.inverse or (contact in SYMMETRIC and other < subject)
        facts.add(Fact(contact, other, subject) if reverse else Fact(contact, subject, other))
    return frozenset(facts)


def names_of(relation: Relation) -> tuple[str, ...]:
    """The names of the two objects of a relation, or of the three of "between"."""
    others = relation.object.split(" and ") if relation.relation in BETWEEN else [relation.object]
    return (relation.subject, *others)


def can_change(relation: Relation) -> bool:
    """Whether a relation has a perturbation."""
    return relation.relation not in FIXED


def contradicts(before: Relation, after: Relation) -> bool:
    """Returns whether two relations of the same objects exclude each other on exactly one axis, or by contact.

    Raises KeyError if their words are not in WORDINGS.
    """
    if set(names_of(before)) != set(names_of(after)) or facts_of(before) == facts_of(after):
        return False
    one, other = MEANINGS[before.relation], MEANINGS[after.relation]
    if "between" in (one.contact, other.contact):
        return one.contact == other.contact and before.subject != after.subject
    swapped = before.subject != after.subject
    if swapped and (one.part or other.part):
        return False
    sign = -1 if swapped else 1
    shared = one.position.keys() & other.position.keys()
    different = [axis for axis in shared if one.position[axis] != sign * other.position[axis]]
    return len(different) == 1 or (not different and _contact_excludes(before, after))


def _contact_excludes(before: Relation, after: Relation) -> bool:
    """Whether two objects cannot touch, or stand on or in each other, in both ways."""
    one, other = (_contact(relation) for relation in (before, after))
    if one is None or other is None:
        return _stands_under(before, after) or _stands_under(after, before)
    if one.first != other.first and {"on", "on top", "in"} >= {one.sense, other.sense}:
        return True  # one of them is on or in the other one, and the reverse
    return frozenset((one.sense, other.sense)) in _EXCLUSIVE


def _stands_under(one: Relation, other: Relation) -> bool:
    """Whether an object is on the other one by `one`, and below it by `other`."""
    contact = _contact(one)
    if contact is None or contact.sense not in ("on", "on top"):
        return False
    return Fact("y", contact.second, contact.first) in facts_of(other)


def _contact(relation: Relation) -> Fact | None:
    """The fact of a relation that is a contact."""
    contact = MEANINGS[relation.relation].contact
    return next((fact for fact in facts_of(relation) if fact.sense == contact), None)


def edit_kind(before: Relation, after: Relation) -> EditKind:
    """Returns how a relation was changed.

    flip: to the opposite; swap: objects exchanged, same words; turn: to another place.
    """
    if before.subject != after.subject:
        return "swap"
    one, other = MEANINGS[before.relation], MEANINGS[after.relation]
    opposite = any(
        one.position[axis] * other.position[axis] < 0 for axis in one.position.keys() & other.position.keys()
    )
    far = "far" in (one.contact, other.contact) and one.contact != other.contact
    return "flip" if opposite or far or one.inverse != other.inverse else "turn"


def split_group(relations: Iterable[Relation]) -> str:
    """Returns an id that is equal for prompts that relate the same pairs of objects, whatever their relations.

    A prompt, its equivalents and its perturbations are one group, so a split never separates them.
    """
    related = sorted("|".join(sorted(names_of(relation))) for relation in relations)
    return hashlib.blake2b(";".join(related).encode(), digest_size=6).hexdigest()

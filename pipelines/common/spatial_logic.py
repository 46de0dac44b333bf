"""What follows from several spatial relations together, and whether they can all be true.

Rules, with `a < b` for "a comes before b on an axis" (further left, higher, further in front):

    a < b, b < c                           =>  a < c
    a on b                                 =>  a above b
    a on or in b, b < c on x or z          =>  a < c             what stands on an object goes with it
    a in b, b < c on y                     =>  a < c
    a and b at parts of one object         =>  the order of the parts
    m between a and b, a < b               =>  a < m < b
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from actors.types import Relation
from pipelines.common.relations import Fact, contradicts, facts_of, names_of

AXES = ("x", "y", "z")
_BEFORE = {"x": "left of", "y": "above", "z": "in front of"}


def implied(relations: Iterable[Relation]) -> frozenset[Fact]:
    """Returns all facts that the relations state or that follow from them."""
    facts = frozenset[Fact]().union(*(facts_of(relation) for relation in relations))
    while True:
        more = facts | frozenset(_consequences(facts))
        if more == facts:
            return facts
        facts = more


def find_contradiction(relations: Sequence[Relation]) -> str:
    """Returns why the relations cannot all be true; "" if they can."""
    facts = implied(relations)
    for sense, first, second in sorted(facts):
        if sense in AXES and (first == second or Fact(sense, second, first) in facts):
            return f"{first!r} and {second!r} would each be {_BEFORE[sense]} the other"
    for sense, first, second in sorted(facts):
        if sense in ("on", "on top", "in"):
            if any({(axis, first, second), (axis, second, first)} & facts for axis in ("x", "z")):
                return f"{first!r} cannot be {sense} {second!r} and also to one side of it"
            if {("far", first, second), ("far", second, first)} & facts:
                return f"{first!r} cannot be {sense} {second!r} and far from it"
    for i, one in enumerate(relations):
        for other in relations[:i]:
            if contradicts(one, other):
                return f"{one.subject!r} cannot be both {one.relation!r} and {other.relation!r} as stated"
    return ""


def find_redundancy(relations: Sequence[Relation]) -> str:
    """Returns which relation is about the same objects as another one, or follows from the others; "" for none."""
    for i, one in enumerate(relations):
        for other in relations[:i]:
            if set(names_of(one)) == set(names_of(other)):
                return f"two relations are about {' and '.join(map(repr, names_of(one)))}: state one of them"
    for i, one in enumerate(relations):
        if facts_of(one) <= implied([*relations[:i], *relations[i + 1 :]]):
            return f"{one.subject!r} {one.relation} {one.object!r} follows from the other relations"
    return ""


def _consequences(facts: frozenset[Fact]) -> Iterator[Fact]:
    """What follows from the facts by one use of a rule."""
    orders = [fact for fact in facts if fact.sense in AXES]
    carried = [fact for fact in facts if fact.sense in ("on", "on top", "in")]
    for sense, above, below in carried:
        if sense != "in":
            yield Fact("y", above, below)
    for one in orders:
        for other in orders:
            if one.sense == other.sense and one.second == other.first:
                yield Fact(one.sense, one.first, other.second)
        for contact in carried:
            if one.sense != "y" or contact.sense == "in":
                yield from _moved(one, contact)
    yield from _by_parts(facts)
    yield from _by_middle(facts, orders)
    for one in carried:  # what is in a box in a crate is in the crate
        for other in carried:
            if one.sense == other.sense == "in" and one.second == other.first:
                yield Fact("in", one.first, other.second)


def _moved(order: Fact, contact: Fact) -> Iterator[Fact]:
    """The order that holds for an object because it holds for what the object is on or in."""
    axis, first, second = order
    if contact.second == first and contact.first != second:
        yield Fact(axis, contact.first, second)
    if contact.second == second and contact.first != first:
        yield Fact(axis, first, contact.first)


def _by_parts(facts: frozenset[Fact]) -> Iterator[Fact]:
    """The order of two objects at different parts of a third one."""
    parts = [(*fact.sense.split("="), fact.first, fact.second) for fact in facts if "=" in fact.sense]
    for axis, place, one, whole in parts:
        for other_axis, other_place, other, other_whole in parts:
            if axis == other_axis and whole == other_whole and int(place) < int(other_place):
                yield Fact(axis, one, other)


def _by_middle(facts: frozenset[Fact], orders: Sequence[Fact]) -> Iterator[Fact]:
    """The order of an object and the two that it is between."""
    for sense, middle, ends in facts:
        if sense == "between":
            for axis, first, second in orders:
                if {first, second} == set(ends.split(" and ")):
                    yield from (Fact(axis, first, middle), Fact(axis, middle, second))

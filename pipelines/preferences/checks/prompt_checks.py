"""Where a prompt states its relations, and what a perturbed prompt changed, found by comparing words alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from actors.types import Relation
from pipelines.common.relations import BETWEEN, WORDINGS, canonical, contradicts, edit_kind, find_contradiction, implied
from pipelines.preferences.roles.base import Edit

_GLUE = {"a", "an", "the", "to", "of", "on", "in", "at", "is", "are", "sits", "stands", "lies", "rests", "side"}
_RELATING = {word for wording in WORDINGS for word in re.findall(r"[\w'-]+", wording)}
SIDES = _RELATING - _GLUE
"""Words that a name may not hold, or a changed relation could not be told from a changed object."""

Span = tuple[int, int]


class InvalidAnswer(ValueError):
    """An answer that breaks a rule. `reason` is one of few, to be counted."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason, self.message = reason, message


def words_of(text: str) -> list[str]:
    """Words in lower case, without punctuation."""
    return re.findall(r"[\w'-]+", text.lower())


def check_statements(text: str, relations: Sequence[Relation], phrases: Sequence[str]) -> None:
    """Whether each phrase states its relation, and only that one, somewhere in the text.

    Raises Unfit, also for relations that cannot all be true.
    """
    words = words_of(text)
    for relation, phrase in zip(relations, phrases, strict=True):
        for name in (relation.subject, relation.object):
            # "between" names two objects, which the text may hold apart
            parts = name.split(" and ") if relation.relation == BETWEEN else [name]
            if not all(_places(words, words_of(part)) for part in parts):
                raise InvalidAnswer("object", f"the prompt must name {name!r} in these words")
            if SIDES & set(words_of(name)):
                raise InvalidAnswer("object", f"a name must not hold a word of place, as {name!r} does")
        if not _places(words_of(phrase), words_of(relation.subject)) | _places(
            words_of(phrase), words_of(relation.object)
        ):
            raise InvalidAnswer("phrase", f"{phrase!r} must name {relation.subject!r} or {relation.object!r}")
    stated = [_stated(words, relation, phrase) for relation, phrase in zip(relations, phrases, strict=True)]
    for i, relating in enumerate(stated):
        for j, phrase in enumerate(phrases):
            if i != j and _overlap(relating, _only(words, words_of(phrase), phrase)):
                raise InvalidAnswer("phrase", f"{phrase!r} must state one relation, not also {relations[i].relation!r}")
    if why := find_contradiction(relations):
        raise InvalidAnswer("relations", why)


def check_perturbation(
    text: str, relations: Sequence[Relation], phrases: Sequence[str], perturbed: str, changed: Mapping[int, Relation]
) -> tuple[Edit, ...]:
    """What `perturbed` changes in `text`: the relations in `changed` (by number), and not another word.

    Raises Unfit if another word changes, an object does, or a changed relation is not denied.
    """
    for i, after in changed.items():
        before = relations[i]
        if {before.subject, before.object} != {after.subject, after.object}:
            raise InvalidAnswer(
                "object", f"relation {i + 1} must keep its objects {before.subject!r} and {before.object!r}"
            )
        if canonical(before) == canonical(after):
            raise InvalidAnswer("paraphrase", f"{_told(after)!r} says the same as {_told(before)!r}")
        if not contradicts(before, after):
            raise InvalidAnswer("no contradiction", f"{_told(after)!r} can be true together with {_told(before)!r}")
    rewritten = [changed.get(i, relation) for i, relation in enumerate(relations)]
    if why := find_contradiction(rewritten):
        raise InvalidAnswer("relations", f"with the other relations, {why}")
    facts = implied(rewritten)
    if kept := [_told(relations[i]) for i in changed if canonical(relations[i]) in facts]:
        raise InvalidAnswer("paraphrase", f"the other relations still imply {kept[0]!r}")
    _compare(text, relations, phrases, perturbed, changed)
    return tuple(
        Edit(edit_kind(relations[i], changed[i]), _told(relations[i]), _told(changed[i])) for i in sorted(changed)
    )


def _compare(
    text: str, relations: Sequence[Relation], phrases: Sequence[str], perturbed: str, changed: Mapping[int, Relation]
) -> None:
    """The word diff: outside the phrases of the changed relations all words stay, inside only those of place change."""
    old, new = words_of(text), words_of(perturbed)
    spans = [_only(old, words_of(phrase), phrase) for phrase in phrases]
    for i in changed:
        others = [j for j in range(len(spans)) if j != i and _overlap(spans[i], spans[j])]
        if edit_kind(relations[i], changed[i]) == "swap" and others:
            raise InvalidAnswer(
                "other words", f"exchanging the objects of relation {i + 1} also changes relation {others[0] + 1}"
            )
    regions = _merged([spans[i] for i in changed])
    for region, replaced in zip(regions, _replacements(old, new, regions), strict=True):
        inside = [i for i in changed if region[0] <= spans[i][0] and spans[i][1] <= region[1]]
        kept = old[region[0] : region[1]]
        for i in inside:
            if edit_kind(relations[i], changed[i]) == "swap":
                kept = _exchange(kept, words_of(relations[i].subject), words_of(relations[i].object))
            if not _places(replaced, words_of(changed[i].relation)):
                raise InvalidAnswer("relations", f"the prompt must say {changed[i].relation!r} for relation {i + 1}")
        if _names(kept) != _names(replaced):
            raise InvalidAnswer("object", f"only words of place may change in {' '.join(old[region[0] : region[1]])!r}")


def _replacements(old: list[str], new: list[str], regions: Sequence[Span]) -> list[list[str]]:
    """The words that stand in `new` for each region of `old`. Raises Unfit if anything else differs."""
    stays = [old[end:start] for (_, end), (start, _) in zip([(0, 0), *regions], [*regions, (len(old), 0)], strict=True)]
    if new[: len(stays[0])] != stays[0] or (stays[-1] and new[-len(stays[-1]) :] != stays[-1]):
        raise InvalidAnswer("other words", "only the changed relations' phrases may differ from the prompt")
    found, position, end = [], len(stays[0]), len(new) - len(stays[-1])
    for between in stays[1:-1]:
        place = next((at for at in range(position, end) if new[at : at + len(between)] == between), None)
        if place is None:
            raise InvalidAnswer("other words", f"{' '.join(between)!r} must stay as it is")
        found.append(new[position:place])
        position = place + len(between)
    return [*found, new[position:end]]


def _stated(words: list[str], relation: Relation, phrase: str) -> Span:
    """Where the words of the relation stand."""
    start, _ = _only(words, words_of(phrase), phrase)
    first, last = _only(words_of(phrase), words_of(relation.relation), relation.relation)
    return start + first, start + last


def _only(words: list[str], part: list[str], told: str) -> Span:
    """Raises Unfit unless `part` is there exactly once."""
    places = _places(words, part)
    if len(places) != 1:
        raise InvalidAnswer("phrase", f"{told!r} must stand in {' '.join(words)!r} once, word for word")
    start = places.pop()
    return start, start + len(part)


def _places(words: list[str], part: list[str]) -> set[int]:
    return {at for at in range(len(words) - len(part) + 1) if words[at : at + len(part)] == part and part}


def _overlap(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _merged(spans: Sequence[Span]) -> list[Span]:
    """Spans in order; those that touch as one."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _exchange(words: list[str], one: list[str], other: list[str]) -> list[str]:
    """Both names, each in the place of the other."""
    exchanged, at = [], 0
    while at < len(words):
        name, instead = next(
            ((a, b) for a, b in ((one, other), (other, one)) if words[at : at + len(a)] == a),
            ([words[at]], [words[at]]),
        )
        exchanged += instead
        at += len(name)
    return exchanged


def _names(words: list[str]) -> list[str]:
    return [word for word in words if word not in _RELATING | _GLUE]


def _told(relation: Relation) -> str:
    return f"{relation.subject} {relation.relation} {relation.object}"

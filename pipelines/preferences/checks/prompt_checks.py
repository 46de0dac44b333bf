"""Checks where a prompt states its relations and what a perturbed prompt changed, by comparing words only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from actors.types import Relation
from pipelines.common.relations import BETWEEN, WORDINGS, canonical, contradicts, edit_kind, find_contradiction, implied
from pipelines.preferences.roles.base import Edit

_FUNCTION_WORDS = {
    "a",
    "an",
    "the",
    "to",
    "of",
    "on",
    "in",
    "at",
    "is",
    "are",
    "sits",
    "stands",
    "lies",
    "rests",
    "side",
}
_RELATION_WORDS = {word for wording in WORDINGS for word in re.findall(r"[\w'-]+", wording)}
PLACE_WORDS = _RELATION_WORDS - _FUNCTION_WORDS
"""Words that an object's name must not contain. Otherwise a changed relation could look like a changed object."""

Span = tuple[int, int]
"""Word positions [start, stop)."""


class InvalidAnswer(ValueError):
    """An answer that breaks a rule. `reason` is one of a few words, so that reasons can be counted."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason, self.message = reason, message


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return re.findall(r"[\w'-]+", text.lower())


def check_statements(text: str, relations: Sequence[Relation], phrases: Sequence[str]) -> None:
    """Checks that each phrase is in the text and states its relation and no other one.

    Raises InvalidAnswer, also if the relations cannot all be true.
    """
    words = words_of(text)
    for relation, phrase in zip(relations, phrases, strict=True):
        for name in (relation.subject, relation.object):
            # the object of "between" is two names, which the text may separate
            parts = name.split(" and ") if relation.relation == BETWEEN else [name]
            if not all(_positions(words, words_of(part)) for part in parts):
                raise InvalidAnswer("object", f"the prompt must contain the name {name!r} word for word")
            if PLACE_WORDS & set(words_of(name)):
                raise InvalidAnswer("object", f"a name must not contain a word of place, got {name!r}")
        if not _positions(words_of(phrase), words_of(relation.subject)) | _positions(
            words_of(phrase), words_of(relation.object)
        ):
            raise InvalidAnswer("phrase", f"{phrase!r} must name {relation.subject!r} or {relation.object!r}")
    stated = [_stated(words, relation, phrase) for relation, phrase in zip(relations, phrases, strict=True)]
    for i, span in enumerate(stated):
        for j, phrase in enumerate(phrases):
            if i != j and _overlap(span, _only_span(words, words_of(phrase), phrase)):
                raise InvalidAnswer("phrase", f"{phrase!r} must state one relation, not also {relations[i].relation!r}")
    if reason := find_contradiction(relations):
        raise InvalidAnswer("relations", reason)


def check_perturbation(
    text: str, relations: Sequence[Relation], phrases: Sequence[str], perturbed: str, changed: Mapping[int, Relation]
) -> tuple[Edit, ...]:
    """Checks that `perturbed` changes the relations in `changed` (index -> relation) and no other word of `text`.

    Returns the edits. Raises InvalidAnswer if another word or an object changes, or if a changed relation does not
    contradict the original one.
    """
    for i, after in changed.items():
        before = relations[i]
        if {before.subject, before.object} != {after.subject, after.object}:
            raise InvalidAnswer(
                "object", f"relation {i + 1} must keep its objects {before.subject!r} and {before.object!r}"
            )
        if canonical(before) == canonical(after):
            raise InvalidAnswer("paraphrase", f"{_sentence(after)!r} means the same as {_sentence(before)!r}")
        if not contradicts(before, after):
            raise InvalidAnswer("no contradiction", f"{_sentence(after)!r} and {_sentence(before)!r} can both be true")
    rewritten = [changed.get(i, relation) for i, relation in enumerate(relations)]
    if reason := find_contradiction(rewritten):
        raise InvalidAnswer("relations", f"together with the other relations, {reason}")
    facts = implied(rewritten)
    if kept := [_sentence(relations[i]) for i in changed if canonical(relations[i]) in facts]:
        raise InvalidAnswer("paraphrase", f"the other relations still imply {kept[0]!r}")
    _compare(text, relations, phrases, perturbed, changed)
    return tuple(
        Edit(edit_kind(relations[i], changed[i]), _sentence(relations[i]), _sentence(changed[i]))
        for i in sorted(changed)
    )


def _compare(
    text: str, relations: Sequence[Relation], phrases: Sequence[str], perturbed: str, changed: Mapping[int, Relation]
) -> None:
    """Compares word by word: only words of place may change, and only in the phrases of the changed relations."""
    old, new = words_of(text), words_of(perturbed)
    spans = [_only_span(old, words_of(phrase), phrase) for phrase in phrases]
    for i in changed:
        others = [j for j in range(len(spans)) if j != i and _overlap(spans[i], spans[j])]
        if edit_kind(relations[i], changed[i]) == "swap" and others:
            raise InvalidAnswer(
                "other words", f"swapping the objects of relation {i + 1} also changes relation {others[0] + 1}"
            )
    regions = _merged([spans[i] for i in changed])
    for region, replaced in zip(regions, _replacements(old, new, regions), strict=True):
        inside = [i for i in changed if region[0] <= spans[i][0] and spans[i][1] <= region[1]]
        kept = old[region[0] : region[1]]
        for i in inside:
            if edit_kind(relations[i], changed[i]) == "swap":
                kept = _swap_names(kept, words_of(relations[i].subject), words_of(relations[i].object))
            if not _positions(replaced, words_of(changed[i].relation)):
                raise InvalidAnswer("relations", f"the prompt must state relation {i + 1} as {changed[i].relation!r}")
        if _other_words(kept) != _other_words(replaced):
            raise InvalidAnswer("object", f"only words of place may change in {' '.join(old[region[0] : region[1]])!r}")


def _replacements(old: list[str], new: list[str], regions: Sequence[Span]) -> list[list[str]]:
    """The words of `new` that replace each region of `old`. Raises InvalidAnswer if anything else differs."""
    fixed = [old[end:start] for (_, end), (start, _) in zip([(0, 0), *regions], [*regions, (len(old), 0)], strict=True)]
    if new[: len(fixed[0])] != fixed[0] or (fixed[-1] and new[-len(fixed[-1]) :] != fixed[-1]):
        raise InvalidAnswer("other words", "only the changed relations' phrases may differ from the prompt")
    found: list[list[str]] = []
    position, end = len(fixed[0]), len(new) - len(fixed[-1])
    for between in fixed[1:-1]:
        start = next((at for at in range(position, end) if new[at : at + len(between)] == between), None)
        if start is None:
            raise InvalidAnswer("other words", f"{' '.join(between)!r} must not change")
        found.append(new[position:start])
        position = start + len(between)
    return [*found, new[position:end]]


def _stated(words: list[str], relation: Relation, phrase: str) -> Span:
    """The span of the relation's own words, such as "to the left of", in the prompt."""
    start, _ = _only_span(words, words_of(phrase), phrase)
    first, last = _only_span(words_of(phrase), words_of(relation.relation), relation.relation)
    return start + first, start + last


def _only_span(words: list[str], part: list[str], text: str) -> Span:
    """The span of `part` in `words`. Raises InvalidAnswer, which quotes `text`, unless it occurs exactly once."""
    starts = _positions(words, part)
    if len(starts) != 1:
        raise InvalidAnswer("phrase", f"{text!r} must occur in {' '.join(words)!r} exactly once, word for word")
    start = starts.pop()
    return start, start + len(part)


def _positions(words: list[str], part: list[str]) -> set[int]:
    """The positions at which `part` starts in `words`."""
    return {at for at in range(len(words) - len(part) + 1) if words[at : at + len(part)] == part and part}


def _overlap(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _merged(spans: Sequence[Span]) -> list[Span]:
    """The spans in order, with touching ones merged."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _swap_names(words: list[str], one: list[str], other: list[str]) -> list[str]:
    """The words with both names swapped."""
    swapped: list[str] = []
    at = 0
    while at < len(words):
        name, replacement = next(
            ((a, b) for a, b in ((one, other), (other, one)) if words[at : at + len(a)] == a),
            ([words[at]], [words[at]]),
        )
        swapped += replacement
        at += len(name)
    return swapped


def _other_words(words: list[str]) -> list[str]:
    """The words that do not belong to relations: the names of objects."""
    return [word for word in words if word not in _RELATION_WORDS | _FUNCTION_WORDS]


def _sentence(relation: Relation) -> str:
    return f"{relation.subject} {relation.relation} {relation.object}"

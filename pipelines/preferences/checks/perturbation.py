"""Checks what a perturbed prompt changed, by comparing its words with those of the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from actors.types import Relation
from pipelines.common.relations import MEANINGS, WORDINGS, can_change, contradicts, edit_kind, facts_of, names_of
from pipelines.common.spatial_logic import find_contradiction, implied
from pipelines.preferences.checks.words import PRONOUNS, InvalidAnswer, PromptWords, Span, gaps, positions, words_of
from pipelines.preferences.roles.base import Edit

_POSTURES = frozenset(
    words_of(
        "is are sits sit stands stand lies lie rests rest hangs hang leans lean floats float hovers hover rises rise "
        "placed positioned located situated set mounted parked standing sitting lying resting hanging leaning propped "
        "a an the to of on in at from side"
    )
)
"""Verbs of position and function words. They may change with a relation: "hangs above" into "stands below"."""

_FREE = _POSTURES | {word for wording in WORDINGS for word in words_of(wording)}


def check_perturbation(
    text: str, relations: Sequence[Relation], phrases: Sequence[str], perturbed: str, changed: Mapping[int, Relation]
) -> tuple[Edit, ...]:
    """Checks that `perturbed` changes the relations in `changed` (index -> relation) and no other word of `text`.

    Returns the edits. Raises InvalidAnswer if another word or an object changes, if a changed relation does not
    contradict the original one, or if the relations of the perturbed prompt cannot all be true.
    """
    for i, after in changed.items():
        _check_change(i, relations[i], after)
    rewritten = [changed.get(i, relation) for i, relation in enumerate(relations)]
    if reason := find_contradiction(rewritten):
        raise InvalidAnswer("relations", f"together with the other relations, {reason}")
    facts = implied(rewritten)
    if kept := [_sentence(relations[i]) for i in changed if facts_of(relations[i]) <= facts]:
        raise InvalidAnswer("paraphrase", f"the other relations still imply {kept[0]!r}")
    _compare(text, relations, phrases, perturbed, changed)
    return tuple(
        Edit(edit_kind(relations[i], changed[i]), _sentence(relations[i]), _sentence(changed[i]))
        for i in sorted(changed)
    )


def _check_change(index: int, before: Relation, after: Relation) -> None:
    """Raises InvalidAnswer unless a changed relation is about the same objects and contradicts the original one."""
    if set(names_of(before)) != set(names_of(after)) or len(names_of(before)) != len(names_of(after)):
        raise InvalidAnswer(
            "object", f"relation {index + 1} must keep its objects {' and '.join(map(repr, names_of(before)))}"
        )
    if facts_of(before) == facts_of(after):
        raise InvalidAnswer("paraphrase", f"{_sentence(after)!r} means the same as {_sentence(before)!r}")
    if not can_change(before):
        raise InvalidAnswer("no contradiction", f"{before.relation!r} of relation {index + 1} must not be changed")
    if not contradicts(before, after):
        raise InvalidAnswer(
            "no contradiction",
            f"{_sentence(after)!r} and {_sentence(before)!r} can both be true, or differ in more than one direction: "
            "use the opposite on the same axis, or exchange the objects",
        )


def _compare(
    text: str, relations: Sequence[Relation], phrases: Sequence[str], perturbed: str, changed: Mapping[int, Relation]
) -> None:
    """Compares word by word: only words of place may change, and only in the phrases of the changed relations."""
    names = [name for relation in relations for name in names_of(relation)]
    old, new = PromptWords(text, names), PromptWords(perturbed, names)
    spans = [old.only_span(phrase) for phrase in phrases]
    for i in changed:
        if edit_kind(relations[i], changed[i]) == "swap":
            _check_swap(old, relations, spans, i)
    regions = _merged([spans[i] for i in changed])
    for region, replaced in zip(regions, _replacements(old.words, new.words, regions), strict=True):
        kept = old.words[slice(*region)]
        new_place = PromptWords(" ".join(replaced), names)
        inside = [i for i in changed if region[0] <= spans[i][0] and spans[i][1] <= region[1]]
        for i in sorted(inside, key=lambda i: -spans[i][0]):  # from the end, so that earlier positions stay
            if edit_kind(relations[i], changed[i]) == "swap":
                phrase = slice(spans[i][0] - region[0], spans[i][1] - region[0])
                kept[phrase] = _swap_names(kept[phrase], relations[i].subject, changed[i].subject)
            meaning = MEANINGS[changed[i].relation]
            if not any(MEANINGS[place.text] == meaning for place in new_place.places):
                raise InvalidAnswer("relations", f"the prompt must state relation {i + 1} as {changed[i].relation!r}")
        if _objects_and_words(kept, names) != _objects_and_words(replaced, names):
            quoted = " ".join(old.words[slice(*region)])
            raise InvalidAnswer("object", f"only words of place may change in {quoted!r}, got {' '.join(replaced)!r}")


def _check_swap(old: PromptWords, relations: Sequence[Relation], spans: Sequence[Span], index: int) -> None:
    """Raises InvalidAnswer if exchanging the names of a relation changes what other words of the prompt say."""
    start, stop = spans[index]
    others = [j for j, span in enumerate(spans) if j != index and span[0] < stop and start < span[1]]
    if others:
        raise InvalidAnswer(
            "other words", f"swapping the objects of relation {index + 1} also changes relation {others[0] + 1}"
        )
    next_name = next((name.start for name in old.names if name.start >= stop), len(old.words))
    if found := [word for word in old.words[stop:next_name] if word in PRONOUNS]:
        raise InvalidAnswer(
            "other words",
            f"swapping the objects of relation {index + 1} changes what {found[0]!r} after it means",
        )


def _replacements(old: list[str], new: list[str], regions: Sequence[Span]) -> list[list[str]]:
    """The words of `new` that replace each region of `old`. Raises InvalidAnswer if anything else differs."""
    fixed = [old[start:stop] for start, stop in gaps(regions, len(old))]
    first, last = fixed[0], fixed[-1]
    if new[: len(first)] != first or (last and new[-len(last) :] != last) or len(new) < len(first) + len(last):
        raise InvalidAnswer("other words", "only the changed relations' phrases may differ from the prompt")
    found: list[list[str]] = []
    position, end = len(first), len(new) - len(last)
    for between in fixed[1:-1]:
        starts = [at for at in positions(new[:end], between) if at >= position]
        if not starts:
            raise InvalidAnswer("other words", f"{' '.join(between)!r} must not change")
        found.append(new[position : starts[0]])
        position = starts[0] + len(between)
    return [*found, new[position:end]]


def _merged(spans: Sequence[Span]) -> list[Span]:
    """The spans in order, with touching ones merged."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _swap_names(words: list[str], one: str, other: str) -> list[str]:
    """The words with two names exchanged."""
    swapped: list[str] = []
    replaced = {one: other, other: one}
    at = 0
    for name in PromptWords(" ".join(words), (one, other)).names:
        swapped += [*words[at : name.start], *words_of(replaced[name.text])]
        at = name.stop
    return [*swapped, *words[at:]]


def _objects_and_words(words: list[str], names: Sequence[str]) -> list[str]:
    """The names of objects as units, and the words that are not about places."""
    prompt = PromptWords(" ".join(words), names)
    units = {name.start: name.text for name in prompt.names}
    inside = {at for name in prompt.names for at in range(name.start, name.stop)}
    return [
        units.get(at, word) for at, word in enumerate(words) if at in units or (at not in inside and word not in _FREE)
    ]


def _sentence(relation: Relation) -> str:
    return f"{relation.subject} {relation.relation} {relation.object}"

"""Checks that a prompt states the relations that its writer lists, each in one phrase, and no others.

The check compares words only. It is strict: a prompt that it does not understand is refused and asked for again.
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.types import Relation
from pipelines.common.relations import BETWEEN, MEANINGS, WORDINGS, can_change, names_of
from pipelines.common.spatial_logic import find_contradiction, find_redundancy
from pipelines.preferences.checks.words import (
    ARTICLES,
    NEGATIONS,
    PRONOUNS,
    InvalidAnswer,
    Mention,
    PromptWords,
    Span,
    words_of,
)

_PLACE_WORDS = {word for wording in WORDINGS for word in words_of(wording)}
_AMBIGUOUS = frozenset({"on", "in", "near", "against", "over", "under", "opposite", "within", "alongside"})
"""Wordings with other uses, as in "on a sunny day". They state a relation only between two objects of the prompt."""

_BACKGROUND = frozenset(words_of("viewer viewer's camera scene image frame photo view background foreground"))
"""What a statement of the point of view may mention without stating a relation."""

_REACH = 6
"""Words after a wording of place among which its object must be."""


def check_statements(text: str, relations: Sequence[Relation], phrases: Sequence[str], frame: str = "") -> None:
    """Checks that each phrase states its relation and no other one, and that the text states no further relations.

    `frame`: the part of the text that states the point of view; it may contain words of place. Raises InvalidAnswer,
    also if the relations cannot all be true, repeat each other, or cannot be changed.
    """
    prompt = PromptWords(text, _checked_names(relations))
    stated = [_check_phrase(prompt, relation, phrase) for relation, phrase in zip(relations, phrases, strict=True)]
    _check_unlisted(prompt, stated, frame)
    if reason := find_contradiction(relations) or find_redundancy(relations):
        raise InvalidAnswer("relations", reason)
    if not any(can_change(relation) for relation in relations):
        raise InvalidAnswer("relations", f"no relation can be changed, got only {relations[0].relation!r} and the like")


def _checked_names(relations: Sequence[Relation]) -> list[str]:
    """The names of all objects. Raises InvalidAnswer if a name is nothing but words of place, or a pronoun."""
    names = list(dict.fromkeys(name for relation in relations for name in names_of(relation)))
    for name in names:
        words = set(words_of(name)) - ARTICLES
        if not words or words <= _PLACE_WORDS:
            raise InvalidAnswer("object", f"the name of an object must not be a word of place only, got {name!r}")
        if bad := words & PRONOUNS:
            raise InvalidAnswer("object", f"the name {name!r} must not contain the pronoun {min(bad)!r}")
    for relation in relations:
        expected = 3 if relation.relation in BETWEEN else 2
        if len(set(names_of(relation))) != expected:
            rule = 'two names joined by " and "' if expected == 3 else "another object than the subject"
            raise InvalidAnswer(
                "object", f"the object of {relation.relation!r} must be {rule}, got {relation.object!r}"
            )
    return names


def _check_phrase(prompt: PromptWords, relation: Relation, phrase: str) -> Mention:
    """The place in the prompt where a phrase states its relation. Raises InvalidAnswer if it does not."""
    span = prompt.only_span(phrase)
    sentence_words = prompt.sentence(span[0])
    if found := [word for word in sentence_words if word in NEGATIONS or word.endswith("n't")]:
        raise InvalidAnswer("phrase", f"the sentence of {phrase!r} must not contain the negation {found[0]!r}")
    named = {at for name in prompt.names_in(span) for at in range(name.start, name.stop)}
    pronouns = [prompt.words[at] for at in range(*span) if at not in named and prompt.words[at] in PRONOUNS]
    if pronouns:
        raise InvalidAnswer("phrase", f"{phrase!r} must name both objects and use no {pronouns[0]!r}")
    for name in names_of(relation):
        if not any(words_of(mention.text) == words_of(name) for mention in prompt.names_in(span)):
            raise InvalidAnswer("phrase", f"{phrase!r} must contain the name {name!r} word for word")
    places = [place for place in prompt.places_in(span) if _is_statement(prompt, place, span)]
    matching = [place for place in places if MEANINGS[place.text] == MEANINGS[relation.relation]]
    if len(matching) != 1:
        raise InvalidAnswer("phrase", f"{phrase!r} must state {relation.relation!r} exactly once, in these words")
    if len(places) > 1:
        other = next(place for place in places if place != matching[0])
        raise InvalidAnswer("phrase", f"{phrase!r} must state one relation, not also {other.text!r}")
    _check_roles(prompt, relation, matching[0], span)
    return matching[0]


def _check_roles(prompt: PromptWords, relation: Relation, place: Mention, span: Span) -> None:
    """Raises InvalidAnswer unless the words read "subject relation object" or "relation object, subject"."""
    subject = [name for name in prompt.names_in(span) if words_of(name.text) == words_of(relation.subject)]
    after = [name for name in prompt.names_in(span) if name.start >= place.stop]
    others = [words_of(name) for name in names_of(relation)[1:]]
    objects = after[: len(others)]
    is_object = sorted(words_of(name.text) for name in objects) == sorted(others)
    if len(subject) != 1 or not is_object or subject[0] in objects:
        quoted = " ".join(prompt.words[slice(*span)])
        raise InvalidAnswer(
            "phrase",
            f"{quoted!r} must read as {relation.subject!r} {relation.relation} {relation.object!r}, each name once",
        )
    before = [name for name in prompt.names_in(span) if name.stop <= place.start]
    if before and before[-1] != subject[0]:
        raise InvalidAnswer("phrase", f"in {before[-1].text!r} {place.text}, the subject must be {relation.subject!r}")


def _check_unlisted(prompt: PromptWords, stated: Sequence[Mention], frame: str) -> None:
    """Raises InvalidAnswer if the prompt states a relation that is not listed."""
    outside: Span = (0, 0)
    if frame.strip():
        outside = prompt.only_span(frame)
    for place in prompt.places:
        in_frame = outside[0] <= place.start and place.stop <= outside[1]
        if place in stated or in_frame or not _is_statement(prompt, place, (0, len(prompt.words))):
            continue
        end = min(place.stop + 3, len(prompt.words))
        quoted = " ".join(prompt.words[max(place.start - 4, 0) : end])
        raise InvalidAnswer("relations", f"the prompt must state the listed relations only, not also {quoted!r}")


def _is_statement(prompt: PromptWords, place: Mention, span: Span) -> bool:
    """Whether a wording states a relation there: an object follows, and for an ambiguous wording one comes before."""
    stop = min(place.stop + _REACH, span[1])
    inside = [at for at in range(place.stop, stop) if prompt.same_sentence(place.start, at)]
    # an article after the first word begins another noun: "on a rainy day a red umbrella"
    noun_end = next((at for at in inside[1:] if prompt.words[at] in ARTICLES), stop)
    follows = any(name.start in inside and name.start < noun_end for name in prompt.names)
    if place.text in _AMBIGUOUS:
        precedes = any(
            name.stop <= place.start and name.start >= span[0] and prompt.same_sentence(name.start, place.start)
            for name in prompt.names
        )
        return follows and (precedes or _begins_sentence(prompt, place))
    noun = [prompt.words[at] for at in inside if prompt.words[at] not in ARTICLES][:1]
    return follows or (bool(noun) and noun[0] not in _BACKGROUND)


def _begins_sentence(prompt: PromptWords, place: Mention) -> bool:
    """Whether the wording begins its sentence, as in "On the tray stands a cup"."""
    return place.start == 0 or not prompt.same_sentence(place.start - 1, place.start)

"""A prompt as words: where it names objects, and where it states places."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipelines.common.relations import WORDINGS

Span = tuple[int, int]
"""Word positions [start, stop)."""

ARTICLES = frozenset({"a", "an", "the"})
_WORD = re.compile(r"[\w'-]+")
_SENTENCE_END = re.compile(r"[.!?;](?=\s|$)")
_QUOTES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'", "\u2010": "-", "\u2011": "-", "\u00a0": " "})


class InvalidAnswer(ValueError):
    """An answer that breaks a rule. `reason` is one of a few words, so that reasons can be counted."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason, self.message = reason, message


def _plain(text: str) -> str:
    return text.translate(_QUOTES).lower()


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation. Curly quotes and hyphens count as plain ones."""
    return [word.strip("'-") or word for word in _WORD.findall(_plain(text))]


PRONOUNS = frozenset(
    words_of(
        "it its itself they them their theirs themselves he him his she her hers this that these those which who whom "
        "whose where ones other others both latter former"
    )
)
NEGATIONS = frozenset(words_of("no not never none neither nor without cannot except"))


def positions(words: Sequence[str], part: Sequence[str]) -> list[int]:
    """The positions at which `part` starts in `words`."""
    return [at for at in range(len(words) - len(part) + 1) if part and list(words[at : at + len(part)]) == list(part)]


@dataclass(frozen=True)
class Mention:
    """An object's name, or a wording of place, at a span of words."""

    start: int
    stop: int
    text: str


class PromptWords:
    """The words of a prompt whose objects have known names.

    A name is one unit: the words of "front door" or "left burner" state no place. Of two names at one position the
    longer one counts, and so it is with wordings of place.
    """

    def __init__(self, text: str, names: Iterable[str]) -> None:
        self.words = words_of(text)
        self.names = _longest(self.words, names, ())
        taken = {at for name in self.names for at in range(name.start, name.stop)}
        self.places = _longest(self.words, WORDINGS, taken)
        self._sentence = _sentence_numbers(text)

    def same_sentence(self, one: int, other: int) -> bool:
        """Whether two word positions are in one sentence."""
        return self._sentence[one] == self._sentence[other]

    def sentence(self, at: int) -> list[str]:
        """The words of the sentence of a word position."""
        return [word for word, number in zip(self.words, self._sentence, strict=True) if number == self._sentence[at]]

    def only_span(self, part: str, quoted: str = "") -> Span:
        """The span of a part of the prompt. Raises InvalidAnswer unless the part occurs exactly once."""
        words = words_of(part)
        found = positions(self.words, words)
        if len(found) != 1:
            count = "not" if not found else f"{len(found)} times"
            raise InvalidAnswer(
                "phrase", f"{quoted or part!r} must occur in the prompt exactly once, word for word; it does {count}"
            )
        return found[0], found[0] + len(words)

    def names_in(self, span: Span) -> list[Mention]:
        """The names of objects within a span."""
        return [name for name in self.names if span[0] <= name.start and name.stop <= span[1]]

    def places_in(self, span: Span) -> list[Mention]:
        """The wordings of place within a span."""
        return [place for place in self.places if span[0] <= place.start and place.stop <= span[1]]


def _longest(words: Sequence[str], texts: Iterable[str], taken: Collection[int]) -> list[Mention]:
    """Every occurrence of one of the texts, from left to right; the longest one at each position."""
    by_first: dict[str, list[tuple[list[str], str]]] = {}
    for text in texts:
        parts = words_of(text)
        if parts:
            by_first.setdefault(parts[0], []).append((parts, text))
    found: list[Mention] = []
    at = 0
    while at < len(words):
        options = [
            (parts, text)
            for parts, text in by_first.get(words[at], ())
            if list(words[at : at + len(parts)]) == parts and not any(at + i in taken for i in range(len(parts)))
        ]
        if options:
            parts, text = max(options, key=lambda option: len(option[0]))
            found.append(Mention(at, at + len(parts), text))
            at += len(parts)
        else:
            at += 1
    return found


def _sentence_numbers(text: str) -> list[int]:
    """The number of its sentence, for each word."""
    plain = _plain(text)
    ends = [match.start() for match in _SENTENCE_END.finditer(plain)]
    return [sum(end < match.start() for end in ends) for match in _WORD.finditer(plain)]


def gaps(spans: Sequence[Span], length: int) -> Iterator[Span]:
    """The parts of `length` words that are outside of the spans, which are in order and do not overlap."""
    edges = [(0, 0), *spans, (length, length)]
    return ((one[1], other[0]) for one, other in pairwise(edges))

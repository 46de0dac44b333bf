"""What the words in the columns of a preference row mean, for readers of the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

KINDS: Mapping[str, str] = {
    "perturbed": "the rejected image shows the prompt with changed relations",
    "corrupted": "the rejected image shows the prompt with one object missing, doubled, recoloured or reshaped",
    "generated": "one model made both images from the same prompt, and the check of the build chose the better one",
}
"""Kind of a pair -> meaning."""

EDITS: Mapping[str, str] = {
    "flip": "the relation becomes its opposite",
    "turn": "the relation takes another direction, e.g. above instead of left of",
    "swap": "the two objects change places",
    "missing": "an object is left out",
    "doubled": "an object is there twice",
    "recoloured": "an object has another colour",
    "reshaped": "an object has another shape",
}
"""Kind of an edit -> meaning."""

FORMS: Mapping[str, str] = {
    "pair": "one relation",
    "star": "all relations start at the first object",
    "chain": "each relation starts at the object before",
    "branch": "a mixture of both",
}
"""Scene of the scenes world, i.e. the form of the sentence -> meaning."""


def explain(meanings: Mapping[str, str], found: Iterable[str]) -> str:
    """The meanings of the words that were found, as one text; "" if none is known."""
    known = set(found)
    return "; ".join(f"{word}: {meaning}" for word, meaning in meanings.items() if word in known)

"""The algebra of relations, and the word-by-word check of what a perturbed prompt changes."""

from __future__ import annotations

import pytest

from actors.types import Relation
from pipelines.common.relations import canonical, contradicts, edit_kind, find_contradiction
from pipelines.preferences.checks.prompt_checks import InvalidAnswer, check_perturbation, check_statements

TEXT = (
    "From the viewer's perspective, a brass kettle stands to the left of the cutting board, a knife lies in "
    "front of the cutting board, and a lamp hangs above the brass kettle."
)
RIGHT = TEXT.replace("left", "right")
RELATIONS = (
    Relation("brass kettle", "to the left of", "cutting board"),
    Relation("knife", "in front of", "cutting board"),
    Relation("lamp", "above", "brass kettle"),
)
PHRASES = (
    "a brass kettle stands to the left of the cutting board",
    "a knife lies in front of the cutting board",
    "a lamp hangs above the brass kettle",
)


def relation(text: str) -> Relation:
    subject, *words, obj = text.split()
    return Relation(subject, " ".join(words), obj)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A left of B", "B right of A"),
        ("A above B", "B beneath A"),
        ("A behind B", "B in front of A"),
        ("A inside B", "B surrounding A"),
        ("A next to B", "B beside A"),
        ("A to the left of B", "A left of B"),
    ],
)
def test_inverse_and_symmetric_statements_are_equal_and_do_not_contradict(one: str, other: str) -> None:
    assert canonical(relation(one)) == canonical(relation(other))
    assert not contradicts(relation(one), relation(other))


@pytest.mark.parametrize(
    ("one", "other", "answer"),
    [
        ("A left of B", "A right of B", True),
        ("A left of B", "B left of A", True),
        ("A left of B", "A behind B", True),
        ("A next to B", "A far from B", True),
        ("A inside B", "A above B", True),
        ("A at the left edge of B", "A at the right edge of B", True),
        ("A left of B", "A next to B", False),
        ("A left of B", "A right of C", False),
        ("A facing B", "A near B", None),
    ],
)
def test_contradiction(one: str, other: str, answer: bool | None) -> None:
    if answer is None:
        with pytest.raises(KeyError):
            contradicts(relation(one), relation(other))
    else:
        assert contradicts(relation(one), relation(other)) is answer


def test_transitivity_reveals_contradictions() -> None:
    chain = [relation("A left of B"), relation("C right of B")]
    assert find_contradiction([*chain, relation("A left of C")]) == ""
    assert "would each be left of the other" in find_contradiction([*chain, relation("C left of A")])
    assert find_contradiction([relation("A left of B"), relation("B right of A")]) == "a relation is stated twice"
    assert "cannot be both" in find_contradiction([relation("A left of B"), relation("A above B")])


def test_every_phrase_must_state_its_relation() -> None:
    check_statements(TEXT, RELATIONS, PHRASES)
    for phrases, reason in (
        ((PHRASES[0], "a knife lies beside the cutting board", PHRASES[2]), "phrase"),
        ((TEXT[31:101] + " the cutting board", *PHRASES[1:]), "phrase"),
    ):
        with pytest.raises(InvalidAnswer) as refused:
            check_statements(TEXT, RELATIONS, phrases)
        assert refused.value.reason == reason
    with pytest.raises(InvalidAnswer, match="word of place"):
        check_statements(
            "the left lamp is above a mug", [Relation("left lamp", "above", "mug")], ["the left lamp is above a mug"]
        )


def _edit_kinds(text: str, **after: str) -> tuple[str, ...]:
    """The kinds of the edits in `text`. r1, r2 and r3 give the new words of a relation; "~" also swaps its objects."""
    changed: dict[int, Relation] = {}
    for name, words in after.items():
        number = int(name[1:]) - 1
        before = RELATIONS[number]
        changed[number] = (
            Relation(before.object, words[1:], before.subject)
            if words.startswith("~")
            else Relation(before.subject, words, before.object)
        )
    return tuple(edit.kind for edit in check_perturbation(TEXT, RELATIONS, PHRASES, text, changed))


def test_flips_turns_and_swaps_are_accepted() -> None:
    assert _edit_kinds(TEXT.replace("to the left of", "to the right of"), r1="to the right of") == ("flip",)
    assert _edit_kinds(TEXT.replace("in front of", "to the right of"), r2="to the right of") == ("turn",)
    swapped = TEXT.replace("a knife lies in front of the cutting board", "a cutting board lies in front of the knife")
    assert _edit_kinds(swapped, r2="~in front of") == ("swap",)
    both = TEXT.replace("to the left of", "to the right of").replace("in front of", "behind")
    assert _edit_kinds(both, r1="to the right of", r2="behind") == ("flip", "flip")


@pytest.mark.parametrize(
    ("text", "after", "reason"),
    [
        (TEXT, {"r1": "to the right of"}, "relations"),  # listed as changed, but the prompt is the same
        (TEXT.replace("to the left of", "to the right of"), {"r1": "left of"}, "paraphrase"),
        (TEXT.replace("to the left of", "next to"), {"r1": "next to"}, "no contradiction"),
        (RIGHT.replace("knife", "spoon"), {"r1": "to the right of"}, "other words"),
        (RIGHT.replace("brass kettle stands", "steel kettle stands"), {"r1": "to the right of"}, "object"),
        (RIGHT.replace("above", "below"), {"r1": "to the right of"}, "other words"),
        (RIGHT + " It is bright.", {"r1": "to the right of"}, "other words"),
        (RIGHT.replace("From the viewer", "From a viewer"), {"r1": "to the right of"}, "other words"),
    ],
)
def test_other_changes_are_refused_with_a_reason(text: str, after: dict[str, str], reason: str) -> None:
    with pytest.raises(InvalidAnswer) as refused:
        _edit_kinds(text, **after)
    assert refused.value.reason == reason


def test_a_change_that_the_other_relations_forbid_is_refused() -> None:
    text = "A stands left of B, B stands left of C, A stands left of C."
    relations = tuple(map(relation, ("A left of B", "B left of C", "A left of C")))
    phrases = ("A stands left of B", "B stands left of C", "A stands left of C")
    for word in ("right of", "behind"):
        after = text.removesuffix("left of C.") + f"{word} C."
        with pytest.raises(InvalidAnswer) as refused:
            check_perturbation(text, relations, phrases, after, {2: Relation("A", word, "C")})
        assert refused.value.reason in ("relations", "paraphrase")


def test_the_kind_of_an_edit() -> None:
    assert edit_kind(relation("A left of B"), relation("A to the right of B")) == "flip"
    assert edit_kind(relation("A left of B"), relation("A above B")) == "turn"
    assert edit_kind(relation("A left of B"), relation("B left of A")) == "swap"

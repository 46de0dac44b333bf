"""The meaning of relations, and what a prompt and its perturbation must state, on sentences of natural English.

The sentences are in relation_sentences.yaml. A third of them is wrong, in ways in which language models err.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.types import Relation
from pipelines.common.relations import WORDINGS, contradicts, edit_kind, facts_of
from pipelines.common.spatial_logic import find_contradiction, find_redundancy, implied
from pipelines.preferences.checks.perturbation import check_perturbation
from pipelines.preferences.checks.statements import check_statements
from pipelines.preferences.checks.words import InvalidAnswer

SENTENCES: dict[str, Any] = yaml.safe_load(
    Path(__file__).with_name("relation_sentences.yaml").read_text(encoding="utf-8")
)


@dataclass(frozen=True)
class Written:
    """A writer's answer."""

    text: str
    relations: tuple[Relation, ...]
    phrases: tuple[str, ...]


def read(marked: str) -> Written:
    """Reads a prompt whose stated relations are marked as "[phrase]{subject|relation|object}"."""
    found = re.findall(r"\[([^\]]*)\]\{([^|}]*)\|([^|}]*)\|([^}]*)\}", marked)
    text = re.sub(r"\{[^}]*\}|[\[\]]", "", marked)
    relations = tuple(Relation(subject, word, other) for _, subject, word, other in found)
    return Written(text, relations, tuple(phrase for phrase, *_ in found))


@pytest.mark.parametrize("case", SENTENCES["prompts"], ids=lambda case: case["text"][:50])
def test_right_prompts_are_accepted_and_wrong_ones_refused_with_their_fault(case: dict[str, str]) -> None:
    written = read(case["text"])
    if "fault" not in case:
        check_statements(written.text, written.relations, written.phrases)
        return
    with pytest.raises(InvalidAnswer) as refused:
        check_statements(written.text, written.relations, written.phrases)
    assert case["fault"] in refused.value.message


def _perturb(marked: str, changes: str) -> str:
    """Checks a perturbation. Returns the kinds of its edits."""
    written = read(marked)
    text, changed = written.text, dict[int, Relation]()
    for number, phrase, subject, word, other in re.findall(r"(\d+) \[([^\]]*)\]\{([^|]*)\|([^|]*)\|([^}]*)\}", changes):
        text = text.replace(written.phrases[int(number) - 1], phrase)
        changed[int(number) - 1] = Relation(subject, word, other)
    edits = check_perturbation(written.text, written.relations, written.phrases, text, changed)
    return " ".join(edit.kind for edit in edits)


@pytest.mark.parametrize("case", SENTENCES["perturbations"], ids=lambda case: case["changes"][:50])
def test_right_perturbations_are_accepted_and_wrong_ones_refused_with_their_fault(case: dict[str, str]) -> None:
    marked = SENTENCES["shared"].get(case["prompt"], case["prompt"])
    if "fault" not in case:
        check_statements(read(marked).text, read(marked).relations, read(marked).phrases)
        assert _perturb(marked, case["changes"]) == case["edits"]
        return
    with pytest.raises(InvalidAnswer) as refused:
        _perturb(marked, case["changes"])
    assert case["fault"] in refused.value.message


def test_other_words_of_a_perturbed_prompt_must_stay() -> None:
    phrase = "[a brass kettle stands to the left of the jar]{brass kettle|to the left of|jar}"
    written = read(f"Seen by the viewer, {phrase}. It is bright.")
    right = written.text.replace("left", "right")
    changed = {0: Relation("brass kettle", "to the right of", "jar")}
    check_perturbation(written.text, written.relations, written.phrases, right, changed)
    for wrong, reason in (
        (right.replace("bright", "dark"), "other words"),
        (right + " A dog sleeps.", "other words"),
        (right.replace("Seen by the", "Seen by a"), "other words"),
        (right.replace("brass", "steel"), "object"),
        (right.replace("stands", "stands proudly"), "object"),
        (written.text, "relations"),
    ):
        with pytest.raises(InvalidAnswer) as refused:
            check_perturbation(written.text, written.relations, written.phrases, wrong, changed)
        assert refused.value.reason == reason, wrong


def relation(text: str) -> Relation:
    subject, *words, other = text.split()
    return Relation(subject, " ".join(words), other)


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
def test_equal_statements_have_equal_facts_and_do_not_contradict(one: str, other: str) -> None:
    assert facts_of(relation(one)) == facts_of(relation(other))
    assert not contradicts(relation(one), relation(other))


@pytest.mark.parametrize(
    ("relations", "fault"),
    [
        (["A left of B", "C right of B", "A left of C"], "follows from the other relations"),
        (["A left of B", "C right of B", "C left of A"], "would each be left of"),
        (["A left of B", "A behind B"], "two relations are about"),
        (["cup on tray", "tray left of laptop", "pen on laptop", "cup right of pen"], "would each be left of"),
        (["cup on tray", "tray left of laptop", "cup left of laptop"], "follows from"),
        (["cup in box", "box on shelf", "cup above shelf"], "follows from"),
        (["cup in box", "box on shelf", "shelf behind lamp", "mug above lamp"], ""),
        (["ball in box", "box in crate", "ball left of crate"], "also to one side of it"),
        (
            ["lamp at the left edge of desk", "mug at the right edge of desk", "lamp right of mug"],
            "would each be left of",
        ),
        (["pan left of kettle", "jug between pan|kettle", "jug left of pan"], "would each be left of"),
        (["pan left of kettle", "jug between pan|kettle", "jug above pan"], ""),
    ],
)
def test_what_follows_from_several_relations(relations: list[str], fault: str) -> None:
    stated = [relation(text.replace("pan|kettle", "pan_and_kettle")) for text in relations]
    stated = [Relation(r.subject, r.relation, r.object.replace("_", " ")) for r in stated]
    assert fault in (found := find_contradiction(stated) or find_redundancy(stated)) and bool(fault) == bool(found)


def test_every_wording_has_facts_and_none_contradicts_itself() -> None:
    for wording in WORDINGS:
        stated = Relation("a", wording, "b and c" if "between" in wording else "b")
        assert facts_of(stated) <= implied([stated]) and not contradicts(stated, stated)
        assert find_contradiction([stated]) == ""


def test_the_kind_of_an_edit() -> None:
    assert edit_kind(relation("A left of B"), relation("A to the right of B")) == "flip"
    assert edit_kind(relation("A near B"), relation("A far from B")) == "flip"
    assert edit_kind(relation("A next to B"), relation("A inside B")) == "turn"
    assert edit_kind(relation("A left of B"), relation("B left of A")) == "swap"

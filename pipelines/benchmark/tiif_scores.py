"""TIIF-Bench's scores: eval/summary_results.py and eval/summary_dimension_results.py.

A type's share for one length is right answers over questions. A group is the mean of the shares of its types, and the
overall score the mean of nine groups. The official sheet rounds the shares of types to 4 decimals first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from pipelines.benchmark.items import Answer, BenchmarkItem, Question, ScoreProtocol
from pipelines.benchmark.judgements import Judgements
from pipelines.benchmark.scores import Cell, Counts, Stratum, pool
from pipelines.benchmark.yes_no import meaning

_REASONING = ("numeracy", "comparison", "differentiation", "negation")
GROUPS: Mapping[str, tuple[str, ...]] = {
    "Basic_Attribute - Attribute": ("shape+color", "color+texture", "texture+color", "shape+texture"),
    "Basic_Relation - Relation": ("2d_spatial_relation", "3d_spatial_relation", "action+2d", "action+3d"),
    "Basic_Reasoning - Reasoning": _REASONING,
    "Advanced_Attribute+Relation - Attribute+Relation": (
        "action+color", "action+texture", "color+2d", "color+3d", "shape+2d", "shape+3d", "texture+2d", "texture+3d",
    ),
    "Advanced_Attribute+Reasoning - Attribute+Reasoning": tuple(
        f"{kind}+{attribute}" for kind in _REASONING for attribute in ("color", "texture")
    ),
    "Advanced_Relation+Reasoning - Relation+Reasoning": tuple(
        f"{kind}+{space}" for kind in _REASONING for space in ("2d", "3d")
    ),
    "Advanced_Text Generation - Text Generation": ("text",),
    "Advanced_Style Control - Style Control": ("style",),
    "Real_Complex - Complex": ("real_world",),
}  # fmt: skip
"""The nine groups of the overall score, by their names in the official output, and their types."""

RELATION, ATTRIBUTE_RELATION, RELATION_REASONING = (
    "Basic_Relation - Relation",
    "Advanced_Attribute+Relation - Attribute+Relation",
    "Advanced_Relation+Reasoning - Relation+Reasoning",
)
SPATIAL_GROUPS = (RELATION, ATTRIBUTE_RELATION, RELATION_REASONING)
"""The groups of the paper's table: BR, AR and RR."""

OVERALL = "Overall average score of 9 sub-attributes"
OVERALL_OF = {
    "Basic_Following_Overall - Overall": "Basic_",
    "Advanced_Following_Overall - Overall": "Advanced_",
    "Real_World_Following_Overall - Overall": "Real_",
}
"""Means over the types of several groups, by the first letters of the groups' names."""

RELATION_QUESTIONS = "BR, relation questions only"
_PRESENCE = re.compile(r"^(is|are) there\b.*\bin the image\s*\?$", re.IGNORECASE)

Shares = Mapping[str, Mapping[str, Counts]]
"""Type -> item -> counts."""


def asks_presence(question: str) -> bool:
    """Whether a question only asks whether something is in the image, such as "Is there a cat in the image?"."""
    return bool(_PRESENCE.match(question.strip()))


def cells(judgements: Judgements, protocol: ScoreProtocol) -> tuple[Cell, ...]:
    """All cells. Names end in "|short" or "|long". Tables: type, group, and own: what TIIF-Bench does not print."""
    found: list[Cell] = []
    official = protocol == "official"
    for length in ("short", "long"):
        items = [item for item in judgements.items if item.length == length]
        shares = _shares(items, judgements, official)
        relations = _shares(items, judgements, official, lambda question: not asks_presence(question.text))
        digits = 4 if official else None
        found += [
            Cell(f"{name}|{length}", (Stratum(name, shares[name]),), table="type", stratum_digits=digits)
            for name in sorted(shares)
        ]
        for name, strata in _groups(shares):
            found.append(Cell(f"{name}|{length}", strata, table="group", stratum_digits=digits, digits=digits))
        only = _strata(relations, GROUPS[RELATION])
        if only:
            note = "questions that ask more than whether something is in the image"
            found.append(Cell(f"{RELATION_QUESTIONS}|{length}", only, table="own", stratum_digits=digits, note=note))
    return tuple(found)


def _groups(shares: Shares) -> Iterator[tuple[str, tuple[Stratum, ...]]]:
    """The groups and overall scores that have a type."""
    for name, types in GROUPS.items():
        if strata := _strata(shares, types):
            yield name, strata
    nine = {group: _strata(shares, types, group) for group, types in GROUPS.items()}
    if not any(nine[group] for group in GROUPS if group not in SPATIAL_GROUPS):
        return  # only the spatial part was loaded
    for name, start in OVERALL_OF.items():
        types = [each for group, members in GROUPS.items() if group.startswith(start) for each in members]
        if strata := _strata(shares, types):
            yield name, strata
    yield OVERALL, tuple(stratum for strata in nine.values() for stratum in strata)


def _strata(shares: Shares, types: Sequence[str], group: str = "") -> tuple[Stratum, ...]:
    return tuple(Stratum(name, shares[name], group) for name in types if name in shares)


def _shares(
    items: Sequence[BenchmarkItem],
    judgements: Judgements,
    official: bool,
    counts: Callable[[Question], bool] = lambda question: True,
) -> Shares:
    shares: dict[str, dict[str, Counts]] = {}
    for item in items:
        for answer in judgements.answers(item):
            pool(shares, item.group, item.id, _count(item, answer, official, counts))
    return shares


def _count(item: BenchmarkItem, answer: Answer | None, official: bool, counts: Callable[[Question], bool]) -> Counts:
    """Right answers of one image. Official: only as many questions count as there are answers."""
    total = Counts()
    values = answer.values if answer else ()
    for position, question in enumerate(item.questions):
        if not counts(question):
            continue
        given = values[position] if position < len(values) else None
        if given is None:
            total += Counts(missing=1)
        elif official:
            total += Counts(float(given.strip().lower() == question.expected.strip().lower()), 1)
        elif known := meaning(given):
            total += Counts(float(known == question.expected.strip().lower()), 1)
        else:
            total += Counts(missing=1)
    return total

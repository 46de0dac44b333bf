"""Held-out prompts of the scenes world in the formats of SpatialGenEval and GenEval 2.

SpatialGenEval: a question about each object (type Object) and each relation (type Position), with the right option at
different letters. GenEval 2: objects, their numbers, and relations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from actors.types import Prompt, Relation, objects_of
from pipelines.scenes.grammar import COLORS, OPPOSITE, SHAPES
from pipelines.scenes.questions import NONE, ask_count, ask_object, ask_place, ask_relation, ask_which

OTHERS = 3
"""Wrong options of a question about objects."""


def spatialgeneval_rows(prompts: Iterable[Prompt]) -> Iterable[dict[str, object]]:
    """Yields the lines of SpatialGenEval's file."""
    for number, prompt in enumerate(prompts):
        names = objects_of(prompt.relations)
        asked = [_which(name, names, number + place) for place, name in enumerate(names)]
        asked += [_place(relation, number + place) for place, relation in enumerate(prompt.relations)]
        yield {
            "id": f"{number:06d}",
            "scene": "Scenes",
            "prompt": prompt.text,
            "question_type": ["Object"] * len(names) + ["Position"] * len(prompt.relations),
            "questions": [question for question, _ in asked],
            "answers": [letter for _, letter in asked],
        }


def geneval2_rows(prompts: Iterable[Prompt]) -> Iterable[dict[str, object]]:
    """Yields the lines of GenEval 2's file."""
    for prompt in prompts:
        names = objects_of(prompt.relations)
        asked = [("object", ask_object(name), "Yes") for name in names]
        asked += [("count", ask_count(name), "one") for name in names]
        asked += [("position", ask_relation(relation), "Yes") for relation in prompt.relations]
        yield {
            "prompt": prompt.text,
            "atom_count": len(asked),
            "vqa_list": [[question, answer] for _, question, answer in asked],
            "skills": [skill for skill, _, _ in asked],
        }


def _which(name: str, present: Sequence[str], turn: int) -> tuple[str, str]:
    """A question about an object with its options, and the letter of the right one."""
    absent = [text for color in COLORS for shape in SHAPES if (text := f"{color} {shape}") not in present]
    others = [absent[(7 * turn + each) % len(absent)] for each in range(OTHERS)]
    return _choice(ask_which(), name, others, turn)


def _place(relation: Relation, turn: int) -> tuple[str, str]:
    """A question about a relation. Its opposite is the only other option: two others might hold at once."""
    return _choice(ask_place(relation), relation.relation, [OPPOSITE[relation.relation]], turn)


def _choice(question: str, right: str, others: Sequence[str], turn: int) -> tuple[str, str]:
    at = turn % (len(others) + 1)
    texts = [*others[:at], right, *others[at:]]
    options = [f"{letter}: {text}" for letter, text in zip("ABCD", texts, strict=False)]
    return f"{question}  Options: {', '.join([*options, f'E: {NONE}'])}", "ABCD"[at]

"""Questions about scenes in the words of the benchmarks, and the exact checker's answers to them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from actors.types import Relation
from pipelines.scenes.checker import check, inspect
from pipelines.scenes.grammar import COLORS, RELATIONS, SHAPES

_COLOR, _SHAPE, _WORD = "|".join(COLORS), "|".join(SHAPES), "|".join(RELATIONS)
_NAME = rf"(?:{_COLOR}) (?:{_SHAPE})"
_RELATION = re.compile(rf"^Is the ({_NAME}) ({_WORD}) the ({_NAME})\?$")
_OBJECT = re.compile(rf"^Is there an? ({_NAME})(?: in the image)?\?$")
_ANY_SHAPE = re.compile(rf"^Is there an? ({_SHAPE})(?: in the image)?\?$")
_COLOR_OF = re.compile(rf"^Is the ({_SHAPE}) ({_COLOR})\?$")
_COUNT = re.compile(rf"^How many ({_NAME})s are in the image\?$")
_PLACE = re.compile(rf"^Where is the ({_NAME}), seen from the ({_NAME})\?$")
_WHICH = "Which of these objects is in the image?"
NONE = "None"
"""The option of a multiple-choice question that the image does not answer."""
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
STATEMENT = re.compile(rf"({_NAME}) ({_WORD}) ({_NAME})")
"""A relation in a description, such as "red circle left of blue square"."""


def ask_object(name: str) -> str:
    """Asks whether an object such as "red circle" is shown."""
    return f"Is there a {name} in the image?"


def ask_shape(shape: str) -> str:
    """Asks whether an object of a shape is shown, whatever its colour."""
    return f"Is there a {shape} in the image?"


def ask_color(shape: str, color: str) -> str:
    """Asks for the colour of a shape."""
    return f"Is the {shape} {color}?"


def ask_relation(relation: Relation) -> str:
    """Asks whether a relation holds."""
    return f"Is the {relation.subject} {relation.relation} the {relation.object}?"


def ask_count(name: str) -> str:
    """Asks for the number of objects such as "red circle"."""
    return f"How many {name}s are in the image?"


def ask_place(relation: Relation) -> str:
    """Asks where an object is; options are relations."""
    return f"Where is the {relation.subject}, seen from the {relation.object}?"


def ask_which() -> str:
    """Asks which object is shown; options are names."""
    return _WHICH


def state(relation: Relation) -> str:
    """A relation as a description."""
    return f"{relation.subject} {relation.relation} {relation.object}"


def is_true(image: np.ndarray, question: str) -> bool:
    """The exact checker's answer to a question of this module about an image, uint8 [64, 64, 3].

    An object is shown if it is there cleanly and once; a relation needs both its objects. Raises ValueError for a
    question in other words.
    """
    text = question.strip()
    if match := _RELATION.match(text):
        return check(image, [Relation(*match.groups())]).outcomes == ("right",)
    found = [each.obj for each in inspect(image)]
    if match := _OBJECT.match(text):
        return any(obj.name == match[1] for obj in found)
    if match := _ANY_SHAPE.match(text):
        return any(obj.shape == match[1] for obj in found)
    if match := _COLOR_OF.match(text):
        return any((obj.shape, obj.color) == match.groups() for obj in found)
    raise ValueError(f"the exact checker knows the questions of pipelines/scenes/questions.py, got {question!r}")


def say_in_one_word(image: np.ndarray, question: str) -> str:
    """The exact checker's answer to a question in one word: a number, "Yes" or "No"."""
    if match := _COUNT.match(question.strip()):
        return NUMBERS[min(sum(each.obj.name == match[1] for each in inspect(image)), len(NUMBERS) - 1)]
    return "Yes" if is_true(image, question) else "No"


def choose(image: np.ndarray, question: str, options: Sequence[str]) -> str:
    """The first option that the image shows, else NONE. Raises ValueError for a question in other words."""
    text = question.strip()
    if match := _PLACE.match(text):
        asked = [Relation(match[1], word, match[2]) for word in options if word in RELATIONS]
        return next((each.relation for each in asked if check(image, [each]).outcomes == ("right",)), NONE)
    if text != _WHICH:
        raise ValueError(f"the exact checker knows the questions of pipelines/scenes/questions.py, got {question!r}")
    found = {each.obj.name for each in inspect(image)}
    return next((name for name in options if name in found), NONE)


def shows_statements(image: np.ndarray, description: str) -> bool:
    """Whether every relation in a description holds. Raises ValueError if it states none."""
    relations = [Relation(*groups) for groups in STATEMENT.findall(description)]
    if not relations:
        raise ValueError(
            f"a description must state a relation such as 'red circle left of blue square': {description!r}"
        )
    return set(check(image, relations).outcomes) == {"right"}


def shows_names(image: np.ndarray, names: Sequence[str], what: str) -> bool:
    """Whether the image shows, for each name, an object with its colour and shape (`what`: "color" or "shape")."""
    found = [each.obj for each in inspect(image)]
    seen = {obj.color if what == "color" else obj.shape for obj in found}
    return all(name.split()[0 if what == "color" else 1] in seen for name in names)

"""Which prompts the page takes, and the reason in plain words for every other one. Imports no torch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from actors.reward_input import InputError, check_prompt
from actors.types import Prompt
from conf.flux import EMBEDDED
from conf.settings import Settings
from pipelines.scenes.grammar import COLORS, RELATIONS, SHAPES, parse

EXAMPLES = ("a red circle left of a blue square", "a yellow triangle above a black circle and right of a green square")
"""Prompts of the scenes world, for messages."""


@dataclass(frozen=True)
class PromptRules:
    """What a prompt must be."""

    max_characters: int
    scenes: bool
    """Whether the model is that of the scenes world, which understands the sentences of its grammar only."""

    @classmethod
    def of(cls, settings: Settings) -> PromptRules:
        """The rules of a run."""
        return cls(settings.play.max_characters, settings.flux.model == EMBEDDED)

    def read(self, text: str) -> Prompt:
        """The prompt that a person typed. Raises InputError, in words for that person, for one that cannot be drawn.

        In the scenes world, capital letters, repeated spaces and a full stop at the end do not matter.
        """
        if len(text) > self.max_characters:
            raise InputError(f"a prompt can have {self.max_characters} characters here, this one has {len(text)}")
        check_prompt(text)
        return _read_scene(text) if self.scenes else Prompt("", text.strip())


def _read_scene(text: str) -> Prompt:
    """The prompt of a sentence of the scenes grammar, with its relations. Raises InputError for another text."""
    try:
        scene = parse(" ".join(text.lower().rstrip(" .").split()))
    except ValueError as error:
        raise InputError(f"{_WORLD}. It did not understand this prompt: {error}") from error
    if not scene.relations:
        raise InputError(f"{_WORLD}. This prompt has no relation: add e.g. 'left of a blue square'")
    colors = Counter(obj.color for obj in scene.objects)
    if twice := [color for color, count in colors.items() if count > 1]:
        raise InputError(f"each object needs a colour of its own here, and this prompt has two that are {twice[0]}")
    return scene.prompt()


_WORLD = (
    f"this small model knows shapes ({', '.join(SHAPES)}) in {len(COLORS)} colours ({', '.join(COLORS)}) and how they "
    f"are placed ({', '.join(RELATIONS)}), as in {EXAMPLES[0]!r}"
)

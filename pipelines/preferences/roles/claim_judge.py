"""A vision-language model that answers the claims about an image, before people see it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from actors.services.endpoint import Endpoint
from actors.services.image_question import data_url, question_parts
from actors.types import Prompt, objects_of
from pipelines.preferences.checks.words import InvalidAnswer
from pipelines.preferences.claims import Answer
from pipelines.preferences.roles.chat import ask_until_valid

QUESTION = """\
Look at the image and answer each claim about it. Left, right, front and behind are the viewer's. Answer "yes" if the \
claim is true, "no" if it is false, and "unsure" only if the image does not show it.

{claims}

Return {count} answers, in the order of the claims."""


class ClaimAnswers(BaseModel):
    """The judge's answer."""

    model_config = ConfigDict(extra="forbid")

    answers: list[Literal["yes", "no", "unsure"]]


@dataclass(frozen=True)
class ClaimJudge:
    """Asks one question for each image: all of its claims at once, with a structured answer."""

    endpoint: Endpoint
    attempts: int

    async def answer(self, image: np.ndarray, prompt: Prompt) -> tuple[Answer, ...]:
        """The answers about `image`, uint8 [H, W, 3]: one for each object of the prompt, then one for each relation.

        Raises InvalidAnswer if no answer has the right form, and what `ask_until_valid` raises.
        """
        claims = claim_texts(prompt)
        numbered = "\n".join(f"{number}. {claim}" for number, claim in enumerate(claims, start=1))
        shown = await asyncio.to_thread(data_url, image)
        question = question_parts(QUESTION.format(claims=numbered, count=len(claims)), [shown])

        def read(given: ClaimAnswers) -> tuple[Answer, ...]:
            if len(given.answers) != len(claims):
                raise InvalidAnswer("malformed", f"there must be {len(claims)} answers, got {len(given.answers)}")
            return tuple(given.answers)

        return await ask_until_valid(self.endpoint, question, ClaimAnswers, self.attempts, read)


def claim_texts(prompt: Prompt) -> list[str]:
    """The claims about an image of a prompt: its objects, then its relations, in their order."""
    objects = [f"{name}: it is there, as many as named and as described" for name in objects_of(prompt.relations)]
    return [*objects, *(f"{one.subject} is {one.relation} {one.object}" for one in prompt.relations)]

"""A reward by a vision-language model behind an OpenAI-compatible endpoint: it grades an image from 0 to 10."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from actors.reward_input import check_inputs
from actors.services.budget import Budget, CountedBudget, LocalBudget
from actors.services.endpoint import Endpoint
from actors.services.image_question import ImageQuestion, ask_all
from actors.services.keys import Key
from actors.types import Scores
from conf.rewards import JudgeSettings

QUESTION = (
    "Grade how well the image shows every object and every spatial relation of this description, from 0 (none) to 10 "
    "(all of them, exactly).\nDescription: {text}\nAnswer with the number alone."
)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


class JudgeReward:
    """Asks one question per image. A grade that could not be obtained is NaN."""

    def __init__(self, settings: JudgeSettings, key: Key, budget: Budget | None = None, cache: str = "") -> None:
        """`budget`: limits the calls; None means no limits. `cache`: folder or URI of answers; empty: no cache."""
        self._usage = CountedBudget(budget or LocalBudget())
        self._endpoint = Endpoint(settings, key, self._usage, cache)

    async def score(self, images: np.ndarray | Sequence[np.ndarray], prompts: Sequence[str]) -> Scores:
        """Grades image i under prompt i. `images`: uint8 [B, H, W, 3]. Sigma is 0. Raises what `ask_all` raises."""
        check_inputs(images, prompts)
        pairs = zip(images, prompts, strict=True)
        questions = [ImageQuestion((image,), QUESTION.format(text=prompt)) for image, prompt in pairs]
        answers = await ask_all(self._endpoint, questions)
        scores = Scores.deterministic([parse_grade(answer) for answer in answers])
        return replace(scores, retries=self._usage.take_retries())


def parse_grade(answer: str) -> float:
    """The number in an answer; NaN unless there is exactly one and it lies in [0, 10]."""
    numbers = [float(number) for number in _NUMBER.findall(answer)]
    return numbers[0] if len(numbers) == 1 and 0 <= numbers[0] <= 10 else float("nan")

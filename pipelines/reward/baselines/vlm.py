"""A vision-language model behind an OpenAI-compatible endpoint: it chooses the correct image, or grades each image."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from actors.rewards.vlm_judge import QUESTION as GRADE_QUESTION
from actors.rewards.vlm_judge import data_url, parse_grade
from actors.services.budget import Budget, LocalBudget
from actors.services.endpoint import Endpoint, Unanswered
from actors.services.keys import Key
from conf.rewards import JudgeSettings
from pipelines.reward.baselines.position_bias import combine_orders
from pipelines.reward.data import Pair
from pipelines.reward.predictions import PairPredictions

CHOICE_QUESTION = (
    "Both images were made for this description. In which of them is every object and every spatial relation as "
    "described?\nDescription: {text}\nAnswer with the number of the image alone: 1 or 2."
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")

JudgeForm = Literal["pairwise", "pointwise"]
"""The question: which of two images is correct, or a grade for one image."""


@dataclass(frozen=True)
class _Question:
    images: tuple[np.ndarray, ...]
    prompt: str


class VlmJudge:
    """Asks two questions per pair: pairwise, both orders of its images; pointwise, a grade for each image.

    A question that was refused, or whose answer cannot be parsed, has no answer. Answers are cached.
    """

    def __init__(
        self, settings: JudgeSettings, key: Key, form: JudgeForm, cache: str, budget: Budget | None = None
    ) -> None:
        """`cache`: folder or URI of cached answers. `budget`: limits the calls; None means no limits."""
        self._settings, self._key, self._form, self._cache = settings, key, form, cache
        self._budget = budget or LocalBudget()

    def judge(self, pairs: Sequence[Pair]) -> PairPredictions:
        """Asks `settings.concurrency` questions at a time. Equal grades and contradicting orders are ties.

        Raises BudgetReached if no further call may be sent; answers to calls in flight are cached.
        """
        if self._form == "pairwise":
            winner_first = [_Question((pair.image_w, pair.image_l), pair.prompt) for pair in pairs]
            loser_first = [_Question((pair.image_l, pair.image_w), pair.prompt) for pair in pairs]
            answers = asyncio.run(self._ask(CHOICE_QUESTION, [*winner_first, *loser_first]))
            votes = [parse_choice(answer) for answer in answers]
            return combine_orders(votes[: len(pairs)], votes[len(pairs) :])
        questions = [_Question((image,), pair.prompt) for pair in pairs for image in (pair.image_w, pair.image_l)]
        grades = [parse_grade(answer) for answer in asyncio.run(self._ask(GRADE_QUESTION, questions))]
        by_pair = np.array(grades, np.float32).reshape(-1, 2)
        return PairPredictions(by_pair[:, 0] - by_pair[:, 1], np.zeros(len(pairs), bool))

    async def _ask(self, wording: str, questions: Sequence[_Question]) -> list[str]:
        """The answers in order; an empty string stands for no answer."""
        endpoint = Endpoint(self._settings, self._key, self._budget, self._cache)

        async def ask(question: _Question) -> str:
            content: list[dict[str, Any]] = [
                {"type": "image_url", "image_url": {"url": data_url(image)}} for image in question.images
            ]
            content.append({"type": "text", "text": wording.format(text=question.prompt)})
            try:
                return await endpoint.chat([{"role": "user", "content": content}])
            except Unanswered:
                return ""

        answers = await asyncio.gather(*(ask(question) for question in questions), return_exceptions=True)
        for answer in answers:  # raise only after all calls have ended: calls in flight are paid for
            if isinstance(answer, BaseException):
                raise answer
        return cast(list[str], answers)


def parse_choice(answer: str) -> float:
    """1 for the first image, -1 for the second; NaN unless the answer holds exactly one number and it is 1 or 2."""
    numbers = _NUMBER.findall(answer)
    return {"1": 1.0, "2": -1.0}.get(numbers[0], float("nan")) if len(numbers) == 1 else float("nan")

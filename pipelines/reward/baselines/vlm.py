"""A vision-language model behind an OpenAI-compatible endpoint: it chooses the correct image, or grades each image."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from actors.rewards.vlm_judge import JudgeReward
from actors.services.budget import Budget, LocalBudget
from actors.services.endpoint import Endpoint
from actors.services.image_question import ImageQuestion, ask_all
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
        return asyncio.run(self._choose(pairs) if self._form == "pairwise" else self._grade(pairs))

    async def _choose(self, pairs: Sequence[Pair]) -> PairPredictions:
        endpoint = Endpoint(self._settings, self._key, self._budget, self._cache)
        winner_first = [_choice(pair, pair.image_w, pair.image_l) for pair in pairs]
        loser_first = [_choice(pair, pair.image_l, pair.image_w) for pair in pairs]
        votes = [parse_choice(answer) for answer in await ask_all(endpoint, [*winner_first, *loser_first])]
        return combine_orders(votes[: len(pairs)], votes[len(pairs) :])

    async def _grade(self, pairs: Sequence[Pair]) -> PairPredictions:
        """By the training reward of the judge, as it is."""
        reward = JudgeReward(self._settings, self._key, self._budget, self._cache)
        images = [image for pair in pairs for image in (pair.image_w, pair.image_l)]
        grades = (await reward.score(images, [pair.prompt for pair in pairs for _ in range(2)])).mu.reshape(-1, 2)
        return PairPredictions(grades[:, 0] - grades[:, 1], np.zeros(len(pairs), bool))


def _choice(pair: Pair, first: np.ndarray, second: np.ndarray) -> ImageQuestion:
    return ImageQuestion((first, second), CHOICE_QUESTION.format(text=pair.prompt))


def parse_choice(answer: str) -> float:
    """1 for the first image, -1 for the second; NaN unless the answer holds exactly one number and it is 1 or 2."""
    numbers = _NUMBER.findall(answer)
    return {"1": 1.0, "2": -1.0}.get(numbers[0], float("nan")) if len(numbers) == 1 else float("nan")

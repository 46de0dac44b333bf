"""A vision-language model behind an OpenAI-compatible endpoint, asked which of two images is right, or for grades."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import cast

import numpy as np

from actors.rewards.vlm_judge import QUESTION as GRADE_QUESTION
from actors.rewards.vlm_judge import data_url, parse_grade
from actors.services.budget import Budget, LocalBudget
from actors.services.endpoint import ContentRefused, Endpoint, Key, RetriesExhausted
from conf.rewards import JudgeSettings
from pipelines.reward.baselines.position_bias import combine_orders
from pipelines.reward.data import Pair
from pipelines.reward.predictions import PairPredictions

CHOICE_QUESTION = (
    "Both images were made for this description. In which of them is every object and every spatial relation as "
    "described?\nDescription: {text}\nAnswer with the number of the image alone: 1 or 2."
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


class VlmJudge:
    """Asks two questions a pair: pairwise, both orders of its images; pointwise, a grade for each image.

    An answer that cannot be had, or cannot be read, is none. Answers are kept, so that none is paid for twice.
    """

    def __init__(self, settings: JudgeSettings, key: Key, form: str, cache: str, account: Budget | None = None) -> None:
        """`form`: pairwise | pointwise. `cache`: folder or URI of the answers. `account`: of what they cost."""
        self._settings, self._key, self._form, self._cache = settings, key, form, cache
        self._account = account or LocalBudget()

    def judge(self, pairs: Sequence[Pair]) -> PairPredictions:
        """`settings.concurrency` questions at once. Equal grades are a tie, and so are orders that contradict.

        Raises BudgetReached where no further call may be sent; answers that were under way are kept.
        """
        if self._form == "pairwise":
            asked = [((p.image_w, p.image_l), p.prompt) for p in pairs]
            asked += [((p.image_l, p.image_w), p.prompt) for p in pairs]
            votes = [choice_in(answer) for answer in asyncio.run(self._ask(CHOICE_QUESTION, asked))]
            return combine_orders(votes[: len(pairs)], votes[len(pairs) :])
        asked = [((image,), pair.prompt) for pair in pairs for image in (pair.image_w, pair.image_l)]
        grades = [parse_grade(answer) for answer in asyncio.run(self._ask(GRADE_QUESTION, asked))]
        by_pair = np.array(grades, np.float32).reshape(-1, 2)
        return PairPredictions(by_pair[:, 0] - by_pair[:, 1], np.zeros(len(pairs), bool))

    async def _ask(self, question: str, asked: Sequence[tuple[tuple[np.ndarray, ...], str]]) -> list[str]:
        """The answers in order, empty where there is none."""
        endpoint = Endpoint(self._settings, self._key, self._account, self._cache)

        async def one(images: tuple[np.ndarray, ...], text: str) -> str:
            content = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
            content.append({"type": "text", "text": question.format(text=text)})
            try:
                return await endpoint.chat([{"role": "user", "content": content}])
            except (ContentRefused, RetriesExhausted):
                return ""

        found = await asyncio.gather(*(one(images, text) for images, text in asked), return_exceptions=True)
        for answer in found:  # after all have come to their end: what is under way is paid for
            if isinstance(answer, BaseException):
                raise answer
        return cast(list[str], found)


def choice_in(answer: str) -> float:
    """1 for the first image, -1 for the second, NaN unless the answer holds exactly one number and it is 1 or 2."""
    numbers = _NUMBER.findall(answer)
    return {"1": 1.0, "2": -1.0}.get(numbers[0], float("nan")) if len(numbers) == 1 else float("nan")

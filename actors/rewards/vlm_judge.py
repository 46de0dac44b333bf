"""A reward by a vision-language model behind an OpenAI-compatible endpoint: it grades an image from 0 to 10."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import numpy as np

from actors.images import png_base64
from actors.reward_input import check_inputs
from actors.services.budget import LocalBudget
from actors.services.endpoint import Endpoint, Unanswered
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

    def __init__(self, settings: JudgeSettings, key: Key) -> None:
        self._endpoint = Endpoint(settings, key, LocalBudget())

    async def score(self, images: np.ndarray | Sequence[np.ndarray], prompts: Sequence[str]) -> Scores:
        """Grades image i under prompt i. `images`: uint8 [B, H, W, 3]. Sigma is 0."""
        check_inputs(images, prompts)
        grades = await asyncio.gather(*(self._grade(*pair) for pair in zip(images, prompts, strict=True)))
        return Scores.deterministic(grades)

    async def _grade(self, image: np.ndarray, prompt: str) -> float:
        content = [
            {"type": "image_url", "image_url": {"url": data_url(image)}},
            {"type": "text", "text": QUESTION.format(text=prompt)},
        ]
        try:
            return parse_grade(await self._endpoint.chat([{"role": "user", "content": content}]))
        except Unanswered:
            return float("nan")


def parse_grade(answer: str) -> float:
    """The number in an answer; NaN unless there is exactly one and it lies in [0, 10]."""
    numbers = [float(number) for number in _NUMBER.findall(answer)]
    return numbers[0] if len(numbers) == 1 and 0 <= numbers[0] <= 10 else float("nan")


def data_url(image: np.ndarray) -> str:
    """An image, uint8 [H, W, 3], as a data URL that holds a PNG file."""
    return f"data:image/png;base64,{png_base64(image)}"

"""A vision-language model behind any OpenAI-compatible endpoint as a reward: it grades an image from 0 to 10."""

from __future__ import annotations

import asyncio
import base64
import io
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image

from actors.services.budget import LocalBudget
from actors.services.endpoint import ContentRefused, Endpoint, Key, RetriesExhausted
from actors.types import Scores, require_texts
from conf.rewards import JudgeSettings

QUESTION = (
    "Grade how well the image shows every object and every spatial relation of this description, from 0 (none) to 10 "
    "(all of them, exactly).\nDescription: {text}\nAnswer with the number alone."
)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


class JudgeReplica:
    """Asks one question an image. A grade that cannot be had is NaN, which the group's statistics leave out."""

    def __init__(self, settings: JudgeSettings, key: Key) -> None:
        self._endpoint = Endpoint(settings, key, LocalBudget())

    async def score(self, images: np.ndarray | Sequence[np.ndarray], texts: Sequence[str]) -> Scores:
        """Grades image i against text i. `images`: uint8 [B, H, W, 3]. Sigma is 0: a grade has none."""
        require_texts(images, texts)
        grades = await asyncio.gather(*(self._grade(image, text) for image, text in zip(images, texts, strict=True)))
        return Scores.deterministic(grades)

    async def _grade(self, image: np.ndarray, text: str) -> float:
        content = [
            {"type": "image_url", "image_url": {"url": data_url(image)}},
            {"type": "text", "text": QUESTION.format(text=text)},
        ]
        try:
            return grade_in(await self._endpoint.chat([{"role": "user", "content": content}]))
        except (ContentRefused, RetriesExhausted):
            return float("nan")


def grade_in(answer: str) -> float:
    """The number in an answer, NaN unless there is exactly one and it lies in 0 to 10."""
    numbers = [float(number) for number in _NUMBER.findall(answer)]
    return numbers[0] if len(numbers) == 1 and 0 <= numbers[0] <= 10 else float("nan")


def data_url(image: np.ndarray) -> str:
    """uint8 [H, W, 3] as a PNG in a data URL."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"

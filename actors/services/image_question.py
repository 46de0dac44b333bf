"""A question about images to a chat model: its messages, and many questions at once."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from actors.images import png_base64
from actors.services.endpoint import Endpoint, Unanswered


@dataclass(frozen=True)
class ImageQuestion:
    """A text about images, uint8 [H, W, 3] each."""

    images: tuple[np.ndarray, ...]
    text: str


def data_url(image: np.ndarray) -> str:
    """An image, uint8 [H, W, 3], as a data URL that holds a PNG file."""
    return f"data:image/png;base64,{png_base64(image)}"


def file_url(content: bytes, kind: str) -> str:
    """The content of an image file, e.g. of the kind png, as a data URL."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def question_parts(text: str, urls: Sequence[str], text_first: bool = False) -> list[dict[str, Any]]:
    """The content of a user's message with images, given as URLs, and a text."""
    shown: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    said: dict[str, Any] = {"type": "text", "text": text}
    return [said, *shown] if text_first else [*shown, said]


async def ask_all(endpoint: Endpoint, questions: Sequence[ImageQuestion]) -> list[str]:
    """The answers in order; an empty string stands for no answer.

    Raises EndpointError or BudgetReached only after all calls have ended: calls in flight are paid for, and cached.
    """

    async def ask(question: ImageQuestion) -> str:
        urls = await asyncio.to_thread(lambda: [data_url(image) for image in question.images])
        try:
            return await endpoint.chat([{"role": "user", "content": question_parts(question.text, urls)}])
        except Unanswered:
            return ""

    answers = await asyncio.gather(*(ask(question) for question in questions), return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return cast(list[str], answers)

"""The exact checker as a judge of benchmarks: it answers chat calls, single questions, and as a detector.

A call is the body of an OpenAI-compatible chat request with one image. The form of the answer follows from the text:
one line a question, the lists of UniGenBench++, the letters of SpatialGenEval, or GenEval 2's one word.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np

from actors.images import decode_image
from pipelines.scenes.checker import inspect
from pipelines.scenes.questions import choose, is_true, say_in_one_word, shows_names, shows_statements
from pipelines.scenes.render import RADIUS

_QUESTION = re.compile(r"^Is .*\?$")
_CHOICE = re.compile(r"^(.*\?)\s+Options: (.*)$", re.MULTILINE)
_OPTION = re.compile(r"(?:^|, )([A-E]): ")
_ONE_WORD = " Answer in one word."
_DESCRIPTIONS = re.compile(r"Checkpoints Description:「\n(.*?)\n」", re.DOTALL)


@dataclass(frozen=True)
class FoundBox:
    """One object of an image, as a detector reports it. Corners are in pixels."""

    name: str  # a shape, or colour and shape
    color: str
    confidence: float
    left: float
    top: float
    right: float
    bottom: float


def answer_chat(body: Mapping[str, object]) -> str:
    """The reply of the exact checker to a chat request. Raises ValueError if there is no image or no known question."""
    image, text = content_of(body)
    if "<score>" in text:
        return answer_checkpoints(image, text)
    if text.endswith(_ONE_WORD):
        return say_in_one_word(image, text.removesuffix(_ONE_WORD))
    if choices := _CHOICE.findall(text):
        return "\n".join(answer_choice(image, question, listed) for question, listed in choices)
    questions = [line.strip() for line in text.splitlines() if _QUESTION.match(line.strip())]
    if not questions:
        raise ValueError(f"the exact checker found no question in {text[:200]!r}")
    return "\n".join(f"{answer_question(image, each)}, by the exact checker" for each in questions)


def answer_question(image: np.ndarray, question: str) -> str:
    """Answers one question with "yes" or "no" about an image, uint8 [64, 64, 3]."""
    return "yes" if is_true(image, question) else "no"


def answer_choice(image: np.ndarray, question: str, listed: str) -> str:
    """The line of a multiple-choice question: a letter, and its option. `listed`: "A: left of, B: …, E: None"."""
    parts = _OPTION.split(listed)
    letters = dict(zip(parts[2::2], parts[1::2], strict=True))  # text -> letter
    chosen = choose(image, question, list(letters))
    return f"{letters[chosen]}: {chosen}"


def answer_checkpoints(image: np.ndarray, text: str) -> str:
    """The answer to a call of UniGenBench++, in its form."""
    match = _DESCRIPTIONS.search(text)
    if not match:
        raise ValueError(f"the exact checker found no descriptions of checkpoints in {text[:200]!r}")
    scores: list[int] = []
    for line in match[1].splitlines():
        point, _, description = line.partition(": ")
        scores.append(int(_holds(image, point, description)))
    analysis = [f"checkpoint {number}, by the exact checker" for number in range(1, len(scores) + 1)]
    return f"<description><analysis>{json.dumps(analysis)}</analysis><score>{json.dumps(scores)}</score></description>"


def find_boxes(image: np.ndarray) -> list[FoundBox]:
    """The clean objects of an image, each under its shape and under its colour and shape, with the renderer's size."""
    boxes: list[FoundBox] = []
    for found in inspect(image):
        radius = RADIUS[found.obj.shape]
        half_x, half_y = (radius * 3**0.5, radius * 1.5) if found.obj.shape == "triangle" else (radius, radius)
        corners = (found.x - half_x, found.y - half_y, found.x + half_x, found.y + half_y)
        for name in (found.obj.name, found.obj.shape):
            boxes.append(FoundBox(name, found.obj.color, found.iou, *corners))
    return boxes


def content_of(body: Mapping[str, object]) -> tuple[np.ndarray, str]:
    """The image, uint8 [H, W, 3], and the text of the last message of a chat request."""
    messages = cast("list[dict[str, object]]", body["messages"])
    parts = cast("list[dict[str, object]]", messages[-1]["content"])
    text = "\n".join(str(part["text"]) for part in parts if part.get("type") == "text")
    urls = [cast("dict[str, str]", part["image_url"])["url"] for part in parts if part.get("type") == "image_url"]
    if len(urls) != 1 or not urls[0].startswith("data:"):
        raise ValueError(f"the exact checker needs one image as a data URL, got {len(urls)} images")
    return decode_image(base64.b64decode(urls[0].partition(",")[2])), text


def _holds(image: np.ndarray, point: str, description: str) -> bool:
    if point.startswith("Entity Layout"):
        return shows_statements(image, description)
    what = point.rpartition("- ")[2].lower()
    if what not in ("color", "shape"):
        raise ValueError(f"the exact checker knows layout, colour and shape, got the checkpoint {point!r}")
    return shows_names(image, description.split(", "), what)

"""What a service said: read from its response, told apart from refusals, and packed to be kept."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from time import time

from openai import APIStatusError
from openai.types import ImagesResponse
from openai.types.chat import ChatCompletion

REFUSING = (400, 403, 422)
"""Statuses with which services refuse a question, and also complain about a malformed one."""

_CODES = (
    "content_policy", "content_filter", "policyviolation", "moderation_blocked", "invalid_prompt", "sensitivecontent",
)  # fmt: skip
_PHRASES = ("content policy", "usage policy", "content management policy", "safety system")
"""What the codes and the texts of refusals hold: OpenAI's, Azure's, Seedream's."""


@dataclass(frozen=True)
class Response:
    """What came back, and what it cost."""

    content: bytes  # text as UTF-8, or an image file
    refused: str = ""  # why there is no content
    tokens_in: int = 0
    tokens_out: int = 0
    images: int = 0


def read_chat(response: object) -> Response:
    """Raises ValueError for a body that is no chat completion."""
    if not isinstance(response, ChatCompletion) or not response.choices:
        raise ValueError("no chat completion")
    message, usage = response.choices[0].message, response.usage
    filtered = "content filter" if response.choices[0].finish_reason == "content_filter" else ""
    return Response(
        (message.content or "").encode(),
        refused=message.refusal or filtered,
        tokens_in=usage.prompt_tokens if usage else 0,
        tokens_out=usage.completion_tokens if usage else 0,
    )


def read_images(response: object) -> Response:
    """Raises ValueError for a body that holds no picture."""
    if not isinstance(response, ImagesResponse) or not response.data or not response.data[0].b64_json:
        raise ValueError("no image")
    return Response(base64.b64decode(response.data[0].b64_json, validate=True), images=1)


def is_content_refusal(error: APIStatusError) -> bool:
    """Whether the service says that the question breaks its policy, and not that it is malformed."""
    body = error.body if isinstance(error.body, Mapping) else {}
    code, text = f"{body.get('code')} {body.get('type')}".lower(), str(body.get("message")).lower()
    policy = any(word in code for word in _CODES) or any(phrase in text for phrase in _PHRASES)
    return policy and error.status_code in REFUSING


def message_of(error: APIStatusError) -> str:
    """The service's own words, cut short."""
    body = error.body
    told = body.get("message") if isinstance(body, Mapping) else None
    return str(told or f"status {error.status_code}")[:300]


def retry_after_seconds(error: APIStatusError) -> float:
    """Seconds that the service asks to wait: a number or a date (RFC 9110, 10.2.3); 0 if it does not say."""
    told = error.response.headers.get("retry-after", "")
    try:
        return max(0.0, float(told))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() - time())
    except ValueError:
        return 0.0


def serialize(answer: Response) -> bytes:
    """As it is kept: a line of JSON, and the content after it."""
    head = {name: value for name, value in asdict(answer).items() if name != "content"}
    return json.dumps(head).encode() + b"\n" + answer.content


def deserialize(packed: bytes) -> Response:
    """What `pack` packed."""
    head, _, content = packed.partition(b"\n")
    return Response(content, **json.loads(head))

"""A service's response: how it is read, how a refusal is told from an error, and how it is serialized for the cache."""

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

REFUSAL_STATUSES = (400, 403, 422)
"""Statuses with which services refuse content. They use the same ones for a malformed question."""

_REFUSAL_CODES = (
    "content_policy",
    "content_filter",
    "policyviolation",
    "moderation_blocked",
    "invalid_prompt",
    "sensitivecontent",
)
"""Parts of the error codes with which OpenAI, Azure and Seedream refuse content."""

_REFUSAL_PHRASES = ("content policy", "usage policy", "content management policy", "safety system")
"""Parts of the error messages with which they refuse content."""


@dataclass(frozen=True)
class Response:
    """The content of a response and what it is charged for."""

    content: bytes  # text as UTF-8, or an image file
    refused: str = ""  # reason if the service refused; then there is no content
    tokens_in: int = 0
    tokens_out: int = 0
    images: int = 0


def read_chat(response: object) -> Response:
    """Reads a chat completion. Raises ValueError if the body is not one."""
    if not isinstance(response, ChatCompletion) or not response.choices:
        raise ValueError("the body is not a chat completion")
    message, usage = response.choices[0].message, response.usage
    filtered = "content filter" if response.choices[0].finish_reason == "content_filter" else ""
    return Response(
        (message.content or "").encode(),
        refused=message.refusal or filtered,
        tokens_in=usage.prompt_tokens if usage else 0,
        tokens_out=usage.completion_tokens if usage else 0,
    )


def read_images(response: object) -> Response:
    """Reads the first generated image. Raises ValueError if the body holds none."""
    if not isinstance(response, ImagesResponse) or not response.data or not response.data[0].b64_json:
        raise ValueError("the body holds no image")
    return Response(base64.b64decode(response.data[0].b64_json, validate=True), images=1)


def is_content_refusal(error: APIStatusError) -> bool:
    """Whether the service says that the content breaks its policy, and not that the question is malformed."""
    body = error.body if isinstance(error.body, Mapping) else {}
    code, text = f"{body.get('code')} {body.get('type')}".lower(), str(body.get("message")).lower()
    policy = any(part in code for part in _REFUSAL_CODES) or any(phrase in text for phrase in _REFUSAL_PHRASES)
    return policy and error.status_code in REFUSAL_STATUSES


def message_of(error: APIStatusError) -> str:
    """The service's error message, at most 300 characters."""
    message = error.body.get("message") if isinstance(error.body, Mapping) else None
    return str(message or f"status {error.status_code}")[:300]


def retry_after_seconds(error: APIStatusError) -> float:
    """Seconds that the header Retry-After asks to wait: a number or a date (RFC 9110, 10.2.3). 0 without the header."""
    value = error.response.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except ValueError:
        return 0.0


def serialize(response: Response) -> bytes:
    """The response as it is cached: one line of JSON, then the content."""
    header = {name: value for name, value in asdict(response).items() if name != "content"}
    return json.dumps(header).encode() + b"\n" + response.content


def deserialize(packed: bytes) -> Response:
    """The response that `serialize` packed."""
    header, _, content = packed.partition(b"\n")
    return Response(content, **json.loads(header))

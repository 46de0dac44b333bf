"""A service's response: how it is read, how a refusal is told from an error, and how it is serialized for the cache."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from email.utils import parsedate_to_datetime
from time import time

from openai import APIStatusError
from openai.types import ImagesResponse
from openai.types.chat import ChatCompletion

from actors.json_files import parse_object

MAX_TOKENS = 10**9
MAX_RETRY_AFTER_S = 3600.0
MIN_LOG_PROBABILITY = -9999.0
"""Stands for a probability of 0, which JSON has no logarithm of; vLLM uses the same."""

REFUSAL_STATUSES = (400, 403, 422)
"""Statuses with which services refuse content. They use the same ones for a malformed question."""

_REFUSAL_CODES = (
    "content_policy",
    "content_filter",
    "policyviolation",
    "moderation_blocked",
    "invalid_prompt",
    "policy_violation",
    "sensitivecontent",
    "riskdetection",
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
    truncated: bool = False  # the service ended the content at a limit of tokens


def read_chat(response: object) -> Response:
    """Reads a chat completion. Raises ValueError if the body is not one."""
    if not isinstance(response, ChatCompletion) or not response.choices:
        raise ValueError("the body is not a chat completion")
    choice, usage = response.choices[0], response.usage
    content, refusal = (_text(part) for part in (choice.message.content, choice.message.refusal))
    filtered = "content filter" if choice.finish_reason == "content_filter" else ""
    return Response(
        content.encode(),
        refused=refusal or filtered,
        tokens_in=_tokens(usage.prompt_tokens) if usage else 0,
        tokens_out=_tokens(usage.completion_tokens) if usage else 0,
        truncated=choice.finish_reason == "length",
    )


def read_first_token(response: object) -> Response | None:
    """Reads the likeliest first tokens of a chat completion, as JSON: token -> natural logarithm of its probability.

    Returns None if a chat completion has no log-probabilities. Raises ValueError if the body is none, or a number is.
    """
    read = read_chat(response)
    assert isinstance(response, ChatCompletion)
    listed = response.choices[0].logprobs
    if read.refused:
        return read
    if listed is None or not listed.content:
        return None
    found: dict[str, float] = {}
    for each in (*listed.content[0].top_logprobs, listed.content[0]):
        found.setdefault(_text(each.token), _log_probability(each.logprob))
    return replace(read, content=json.dumps(found).encode(), truncated=False)


def _log_probability(value: object) -> float:
    """A logarithm of a probability; rounding may lift it above 0. Raises ValueError for other values."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value > 0.01:
        raise ValueError("a log-probability in the response is none")
    return max(float(value), MIN_LOG_PROBABILITY)


def _text(value: object) -> str:
    """A text of a response, which the client does not check; "" for null. Raises ValueError for other values."""
    if not isinstance(value, str | None):
        raise ValueError("a text of the response is of another type")
    (value or "").encode()  # raises for half of a surrogate pair
    return value or ""


def _tokens(value: object) -> int:
    """A number of tokens. Raises ValueError for what would make the budget wrong."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_TOKENS:
        raise ValueError("a number of tokens in the response is none")
    return int(value)


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
    """The service's error message. It can be long, and can repeat the key."""
    message = error.body.get("message") if isinstance(error.body, Mapping) else None
    if 300 <= error.status_code < 400:
        message = f"a redirect to {error.response.headers.get('location', 'nowhere')}, which is not followed"
    return message if isinstance(message, str) and message else f"status {error.status_code}"


def retry_after_seconds(headers: Mapping[str, str]) -> float:
    """Seconds that the header Retry-After asks to wait, at most MAX_RETRY_AFTER_S; 0 without the header.

    It is a number or a date (RFC 9110, 10.2.3).
    """
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time()
        except (ValueError, TypeError, OverflowError, OSError):
            return 0.0
    return min(seconds, MAX_RETRY_AFTER_S) if seconds > 0 else 0.0


def serialize(response: Response) -> bytes:
    """The response as it is cached: one line of JSON, then the content."""
    header = {name: value for name, value in asdict(response).items() if name not in ("content", "truncated")}
    return json.dumps(header).encode() + b"\n" + response.content


def deserialize(packed: bytes) -> Response:
    """The response that `serialize` packed. Raises ValueError if it was not packed so."""
    line, newline, content = packed.partition(b"\n")
    header = parse_object(line)
    refused = header.pop("refused", None)
    if not newline or not isinstance(refused, str) or header.keys() != {"tokens_in", "tokens_out", "images"}:
        raise ValueError("it does not start with the header of a response")
    tokens_in, tokens_out, images = (_tokens(header[name]) for name in ("tokens_in", "tokens_out", "images"))
    return Response(content, refused, tokens_in, tokens_out, images)

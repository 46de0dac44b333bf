"""Calls to an OpenAI-compatible endpoint that can be trusted: paced, repeated, paid for once, and counted.

What a service answers is either an answer, which is kept on disk, or one of three errors: `Refused` (it will not; kept
too), `Unanswered` (it cannot now) and `EndpointError` (it never will: key, model, address or question are wrong).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from openai import APIConnectionError, APIResponseValidationError, APIStatusError, AsyncOpenAI

from actors.files import exists, read_file, write_file
from actors.services.budget import BudgetTracker, Usage
from actors.services.responses import (
    Response,
    deserialize,
    is_content_refusal,
    message_of,
    read_chat,
    read_images,
    retry_after_seconds,
    serialize,
)
from conf.endpoints import EndpointSettings

_AGAIN = (408, 409, 429)  # and all from 500 on
_MALFORMED = (400, 413, 415, 422)
_FIRST_WAIT = 0.5  # seconds, doubled from retry to retry


class ContentRefused(RuntimeError):
    """The service answered that it will not do this."""


class RetriesExhausted(RuntimeError):
    """All retries failed; another time the same call may succeed."""


class EndpointError(RuntimeError):
    """No call can succeed until a setting or the account at the service is mended."""


@dataclass(frozen=True)
class Key:
    """A key that does not show itself."""

    value: str = field(repr=False)


def key_of(settings: EndpointSettings) -> Key:
    """The key in this process's environment. Give it on as an argument: Ray shows runtime environments in its logs.

    Raises ValueError, naming the variable, if it is not set.
    """
    return key_in(settings.key_variable, f"the key of {settings.section}")


def key_in(variable: str, what: str) -> Key:
    """The key in the environment variable `variable`. Raises ValueError, naming `what` and it, if it is not set."""
    value = os.environ.get(variable, "")
    if not value:
        raise ValueError(f"{what} is read from ${variable}, which is not set")
    return Key(value)


class Budget(Protocol):
    """A Meter, here or in another process."""

    async def acquire(self, caller: str, calls_per_minute: int) -> float: ...

    async def record(self, spent: Usage) -> None: ...


class LocalBudget:
    """A Meter of this process alone, by default without a budget."""

    def __init__(self, meter: BudgetTracker | None = None) -> None:
        self._meter = meter or BudgetTracker()

    async def acquire(self, caller: str, calls_per_minute: int) -> float:
        """See Meter.admit."""
        return self._meter.acquire(caller, calls_per_minute)

    async def record(self, spent: Usage) -> None:
        """See Meter.record."""
        self._meter.record(spent)


class Endpoint:
    """One service. Safe to share between the coroutines of one event loop."""

    def __init__(self, settings: EndpointSettings, key: Key, account: Budget, cache: str = "") -> None:
        """`cache`: folder or URI in which answers are kept by the content of their question; empty: they are not."""
        self._settings, self._key, self._account, self._cache = settings, key, account, cache
        self._client = AsyncOpenAI(base_url=settings.url, api_key=key.value, max_retries=0, timeout=settings.timeout)
        self._places = asyncio.Semaphore(settings.concurrency)

    async def chat(self, messages: Sequence[Mapping[str, Any]], schema: Mapping[str, Any] | None = None) -> str:
        """The model's text; JSON of `schema` ({"name", "schema", "strict"}) if one is given.

        Raises Refused, Unanswered, EndpointError or BudgetReached.
        """
        body: dict[str, Any] = {"model": self._settings.model, "messages": list(messages)}
        if schema:
            body["response_format"] = {"type": "json_schema", "json_schema": dict(schema)}

        async def send() -> Response:
            return read_chat(await self._client.chat.completions.create(**body))

        return (await self._ask("chat", body, send)).content.decode()

    async def image(self, prompt: str, size: str, seed: int) -> bytes:
        """The file of one picture. Raises as `chat` does."""
        # Beyond OpenAI's own parameters: Seedream's, which sends marked or several pictures otherwise.
        extra = {"seed": seed, "watermark": False, "sequential_image_generation": "disabled"}
        body: dict[str, Any] = {"model": self._settings.model, "prompt": prompt, "size": size}

        async def send() -> Response:
            response = await self._client.images.generate(**body, response_format="b64_json", extra_body=extra)
            return read_images(response)

        return (await self._ask("images", body | extra, send)).content

    async def _ask(self, what: str, body: Mapping[str, Any], send: Callable[[], Awaitable[Response]]) -> Response:
        # Not the address: one model at two addresses gives one answer.
        digest = hashlib.sha256(json.dumps([what, body], sort_keys=True).encode()).hexdigest()
        place = f"{self._cache}/{digest[:2]}/{digest}"
        async with self._places:
            if self._cache and exists(place):
                answer = deserialize(await asyncio.to_thread(read_file, place))
            else:
                answer = await self._send(send)
                if self._cache:
                    await asyncio.to_thread(write_file, place, serialize(answer))
        if answer.refused:
            raise ContentRefused(answer.refused)
        return answer

    async def _send(self, send: Callable[[], Awaitable[Response]]) -> Response:
        own = self._settings
        for attempt in range(own.retries + 1):
            await asyncio.sleep(await self._account.acquire(own.section, own.calls_per_minute))
            answer, trouble, asked = Response(b""), "", 0.0
            try:
                answer = await send()
            except APIStatusError as error:
                trouble, asked = self._judge(error), retry_after_seconds(error)
                answer = Response(b"", refused=self._without_key(message_of(error)))
            except APIConnectionError as error:  # dropped, or too late
                trouble = type(error).__name__
            except (APIResponseValidationError, ValueError, TypeError, AttributeError) as error:
                trouble = f"nonsense ({type(error).__name__})"
            await self._account.record(self._cost(answer, attempt))
            if not trouble:
                return answer
            if attempt < own.retries:
                backoff = min(own.max_backoff_s, _FIRST_WAIT * 2**attempt)
                await asyncio.sleep(asked + backoff * random.uniform(0.5, 1.0))
        raise RetriesExhausted(f"{own.section} at {own.url} gave no answer in {own.retries + 1} calls: {trouble}")

    def _judge(self, error: APIStatusError) -> str:
        """What is wrong for now; "" if this question is refused. Raises EndpointError for what only you can mend."""
        status, exhausted = error.status_code, error.code == "insufficient_quota"
        if not exhausted and (status in _AGAIN or status >= 500):
            return f"status {status}"
        if is_content_refusal(error):
            return ""
        own, told = self._settings, self._without_key(message_of(error))
        whose = f"the key in ${own.key_variable} and the account it belongs to"
        also = "whether it takes such questions" if status in _MALFORMED else whose
        check = f"check {own.section}.url, {own.section}.model, {also}"
        raise EndpointError(
            f"{own.section} at {own.url} answers {status} ({told}): {check}"
        ) from None  # the original shows the request

    def _without_key(self, text: str) -> str:
        return text.replace(self._key.value, "***")

    def _cost(self, answer: Response, attempt: int) -> Usage:
        own = self._settings
        tokens = (answer.tokens_in * own.price_in + answer.tokens_out * own.price_out) / 1e6
        money = tokens + answer.images * own.price_image
        return Usage(1, int(attempt > 0), answer.tokens_in + answer.tokens_out, answer.images, money)

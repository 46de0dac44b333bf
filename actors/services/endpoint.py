"""Calls to an OpenAI-compatible endpoint: rate-limited, retried, cached, and counted against a budget.

A call either returns a response, which is cached, or raises `EndpointError` (every such call will fail: the key, the
model, the address or the form of the questions is wrong) or an `Unanswered`: `ContentRefused` (the service refuses this
content; cached too), `QuestionRejected` (it does not take this question, but takes others) or `RetriesExhausted` (it
fails at the moment).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from openai import APIConnectionError, APIResponseValidationError, APIStatusError, AsyncOpenAI

from actors.files import exists, join, read_file, write_file
from actors.services.backoff import is_temporary, wait_seconds
from actors.services.budget import Budget, Usage
from actors.services.keys import Key
from actors.services.responses import (
    Response,
    deserialize,
    is_content_refusal,
    message_of,
    read_chat,
    read_first_token,
    read_images,
    retry_after_seconds,
    serialize,
)
from actors.services.transport import UnfitAnswerError, http_client
from conf.endpoints import EndpointSettings

Api = Literal["chat", "first_token", "images"]
"""What is asked for; responses are cached apart."""

_MALFORMED = (400, 413, 415, 422)
"""Statuses that complain about the form of the question."""
_INVALID = (
    APIResponseValidationError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RecursionError,
)
"""What the client and the readers of responses raise for a body that is no answer: its bytes decide."""
MAX_MESSAGE_CHARACTERS = 300
MAX_REJECTIONS = 3
"""Questions that a service may reject before it has answered any. One more error of this kind ends the job."""
MAX_REJECTED_SHARE = 0.05
"""Share of the questions that a service may reject. More are no faults of single questions."""


class Unanswered(RuntimeError):
    """This question has no answer. Others may have one."""


class ContentRefused(Unanswered):
    """The service refuses this content."""


class QuestionRejected(Unanswered):
    """The service does not take this question, and does not say that it refuses its content."""


class RetriesExhausted(Unanswered):
    """All retries of a call failed. The same call may succeed at another time."""


class AnswerTruncated(RetriesExhausted):
    """The service ended its answer at a limit of tokens. It is not cached: the limit may be raised."""


class EndpointError(RuntimeError):
    """No call can succeed until a setting, or the account at the service, is fixed."""


class Endpoint:
    """One service. The coroutines of one event loop can share it."""

    def __init__(self, settings: EndpointSettings, key: Key, budget: Budget, cache: str = "") -> None:
        """`cache`: folder or URI of cached responses, found by the content of the question. Empty: no cache."""
        self._settings, self._key, self._budget, self._cache = settings, key, budget, cache
        self._client = AsyncOpenAI(
            base_url=settings.url,
            api_key=key.value,
            max_retries=0,
            timeout=settings.timeout,
            http_client=http_client(settings.timeout),
            default_headers={"Accept-Encoding": "identity"},
        )
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._answered = self._rejected = 0

    async def chat(
        self, messages: Sequence[Mapping[str, Any]], schema: Mapping[str, Any] | None = None, attempt: int = 0
    ) -> str:
        """Returns the model's text; JSON that follows `schema` ({"name", "schema", "strict"}) if one is given.

        `attempt`: another number asks the same question again, instead of taking the cached answer. Raises an
        Unanswered, EndpointError or BudgetReached.
        """
        settings = self._settings
        options: dict[str, Any] = settings.answer_options()
        if schema:
            options["response_format"] = {"type": "json_schema", "json_schema": dict(schema)}
        question: dict[str, Any] = {"model": settings.model, "messages": list(messages)}
        extra = options | settings.delivery_options()

        async def send() -> Response:
            return read_chat(await self._client.chat.completions.create(**question, extra_body=extra))

        key = question | options | ({"attempt": attempt} if attempt else {})
        return (await self._ask("chat", key, send)).content.decode()

    async def first_token(self, messages: Sequence[Mapping[str, Any]], attempt: int = 0) -> dict[str, float]:
        """Returns the likeliest first tokens of the model's text: token -> natural logarithm of its probability.

        The settings' `answer_options` must ask for `logprobs`. Raises the same errors as `chat`; EndpointError if the
        service gives no log-probabilities.
        """
        settings = self._settings
        options = settings.answer_options()
        question: dict[str, Any] = {"model": settings.model, "messages": list(messages)}

        async def send() -> Response:
            extra = options | settings.delivery_options()
            response = read_first_token(await self._client.chat.completions.create(**question, extra_body=extra))
            if response is None:
                raise EndpointError(
                    f"{settings.section} at {settings.url} gives no log-probabilities of {settings.model}: set "
                    f"{settings.section}.url to a service that does, such as vLLM"
                )
            return response

        key = question | options | ({"attempt": attempt} if attempt else {})
        return json.loads((await self._ask("first_token", key, send)).content)

    async def image(self, prompt: str, size: str, seed: int, source: str = "") -> bytes:
        """Returns the file of one generated image. Raises the same errors as `chat`.

        `source`: data URL of an image that is edited as the prompt says. Empty: a new image is generated.
        """
        # Seedream's parameters beyond OpenAI's: without them it adds a watermark or returns several images.
        extra: dict[str, Any] = {"seed": seed, "watermark": False, "sequential_image_generation": "disabled"}
        if source:
            extra["image"] = source
        body: dict[str, Any] = {"model": self._settings.model, "prompt": prompt, "size": size}

        async def send() -> Response:
            response = await self._client.images.generate(**body, response_format="b64_json", extra_body=extra)
            return read_images(response)

        return (await self._ask("images", body | extra, send)).content

    async def _ask(self, api: Api, key: Mapping[str, Any], send: Callable[[], Awaitable[Response]]) -> Response:
        # The digest leaves the address out: one model at two addresses gives the same responses.
        digest = hashlib.sha256(json.dumps([api, key], sort_keys=True).encode()).hexdigest()
        cached = join(join(self._cache, digest[:2]), digest)
        async with self._slots:
            response = await asyncio.to_thread(_read_cached, cached) if self._cache else None
            if response is None:
                response = await self._send(send)
                if self._cache:
                    await asyncio.to_thread(write_file, cached, serialize(response))
        if response.refused:
            raise ContentRefused(response.refused)
        return response

    async def _send(self, send: Callable[[], Awaitable[Response]]) -> Response:
        """Sends a call, and retries it while it fails for a reason that may pass."""
        settings = self._settings
        failure = ""
        for attempt in range(settings.retries + 1):
            await asyncio.sleep(await self._budget.acquire(settings.section, settings.calls_per_minute))
            response, failure, retry_after = Response(b""), "", 0.0
            try:
                async with asyncio.timeout(settings.timeout):  # of the client, it bounds each part of an answer only
                    response = self._without_key(await send())
            except APIStatusError as error:
                failure, retry_after = self._temporary_failure(error), retry_after_seconds(error.response.headers)
                response = Response(b"", refused=self._shown(message_of(error)))
            except TimeoutError:
                failure = f"no answer within {settings.timeout:g} s"
            except APIConnectionError as error:  # connection dropped, or timeout
                cause = error.__cause__  # others can quote the key, which is in a header
                failure = str(cause) if isinstance(cause, UnfitAnswerError) else type(error).__name__
            except _INVALID as error:
                failure = f"invalid response ({type(error).__name__})"
            await self._budget.record(self._usage(response, attempt))
            if response.truncated:
                raise AnswerTruncated(
                    f"{settings.section} at {settings.url} cut its answer off at its limit of tokens "
                    "(finish_reason=length): raise the limit of the service or its model"
                )
            if not failure:
                self._answered += 1
                return response
            if attempt < settings.retries:
                await asyncio.sleep(wait_seconds(attempt, settings.max_backoff_s, retry_after))
        raise RetriesExhausted(
            f"{settings.section} at {settings.url} failed {settings.retries + 1} times; last failure: {failure}"
        )

    def _temporary_failure(self, error: APIStatusError) -> str:
        """Describes a failure that may pass; returns "" if the service refuses the content.

        Raises QuestionRejected for an error of one question, EndpointError for one that only the user can fix.
        """
        status, quota_exhausted = error.status_code, error.code == "insufficient_quota"
        if not quota_exhausted and is_temporary(status):
            return f"status {status}"
        if is_content_refusal(error):
            return ""
        settings, message = self._settings, self._shown(message_of(error))
        key = f"the key in ${settings.key_variable} and the account it belongs to"
        third = "whether the service accepts this form of question" if status in _MALFORMED else key
        check = f"check {settings.section}.url, {settings.section}.model, {third}"
        answer = f"{settings.section} at {settings.url} answers {status} ({message})"
        # `from None`: the original exception shows the request, and with it the key
        if status in _MALFORMED and not quota_exhausted and not self._rejects_all():
            raise QuestionRejected(answer) from None
        raise EndpointError(f"{answer}: {check}") from None

    def _rejects_all(self) -> bool:
        """Counts a rejected question. Whether the service rejects too many for a fault of single questions."""
        self._rejected += 1
        if not self._answered:
            return self._rejected >= MAX_REJECTIONS
        return self._rejected > max(MAX_REJECTIONS, MAX_REJECTED_SHARE * (self._answered + self._rejected))

    def _without_key(self, response: Response) -> Response:
        """The response with the key masked, which some services repeat. An image is left as it is."""
        content = response.content if response.images else self._mask(response.content.decode()).encode()
        return replace(response, content=content, refused=self._shown(response.refused))

    def _shown(self, text: str) -> str:
        """The text for a message. The key is masked before the text is cut, so that no part of it is left."""
        return " ".join(self._mask(text).split())[:MAX_MESSAGE_CHARACTERS]

    def _mask(self, text: str) -> str:
        return text.replace(self._key.value, "***") if self._key.value else text

    def _usage(self, response: Response, attempt: int) -> Usage:
        settings = self._settings
        cost = (response.tokens_in * settings.price_in + response.tokens_out * settings.price_out) / 1e6
        cost += response.images * settings.price_image
        return Usage(1, int(attempt > 0), response.tokens_in + response.tokens_out, response.images, cost)


def _read_cached(location: str) -> Response | None:
    """The cached response; None if there is none, or if the file is damaged: then the question is asked again."""
    if not exists(location):
        return None
    try:
        return deserialize(read_file(location))
    except ValueError as error:
        logging.warning("the cached response %s is damaged and is asked for again: %s", location, error)
        return None

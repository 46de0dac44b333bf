"""The HTTP client of an endpoint. What a service may send is bounded before anything reads it.

No redirect is followed (the question would go to another address), no answer is decompressed (a megabyte can unfold to
gigabytes), every answer is read as UTF-8, and it has at most MAX_ANSWER_BYTES.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

from openai import DefaultAsyncHttpxClient

MAX_ANSWER_BYTES = 64 * 2**20
"""An image of 4096 x 4096 pixels as base64 is smaller."""

# The openai library brings its own HTTP library, httpx or httpx2, whose classes do not mix.
_modules = [base.__module__.partition(".")[0] for base in DefaultAsyncHttpxClient.__mro__]
_http: Any = sys.modules[next(name for name in _modules if name.startswith("httpx"))]


class UnfitAnswerError(_http.ReadError):
    """The service sends an answer that is not read."""


class _BoundedStream(_http.AsyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._stream:
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise UnfitAnswerError(f"the answer has over {MAX_ANSWER_BYTES} bytes")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _bound(response: Any) -> None:
    encoding = response.headers.get("content-encoding", "identity")
    if encoding.lower() not in ("", "identity"):
        raise UnfitAnswerError(f"the answer is compressed ({encoding[:20]!r}), which was not asked for")
    response.encoding = "utf-8"  # an answer may name any codec of Python as its charset, and some of them decompress
    response.stream = _BoundedStream(response.stream)


def http_client(timeout: float) -> Any:
    """The client for AsyncOpenAI. `timeout`: seconds until a connection, or a part of an answer, must have come."""
    hooks = {"response": [_bound]}
    headers = {"Accept-Encoding": "identity"}
    return DefaultAsyncHttpxClient(timeout=timeout, follow_redirects=False, event_hooks=hooks, headers=headers)


def http_errors() -> tuple[type[Exception], ...]:
    """What the client raises for a request that was not answered."""
    return (_http.HTTPError, TimeoutError)

"""What the servers of pages accept: the size and the time of a request. Also the headers of their responses."""

from __future__ import annotations

import asyncio
import json

import h11
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_BODY_BYTES = 64 * 1024
"""What a page sends, a vote or a prompt, has a few kilobytes."""
DISCARDED_BYTES = 4 * 1024 * 1024
"""Of a body that is too large, this much is read and discarded. A client that is still sending may miss the answer."""
BODY_SECONDS = 10.0
HEADER_SECONDS = 15.0


def security_headers(images: str = "'self'") -> dict[str, str]:
    """Headers of every response: the page loads nothing from elsewhere. `images`: sources that images may have."""
    return {
        "Cache-Control": "no-store",
        "Content-Security-Policy": f"default-src 'none'; script-src 'self'; style-src 'self'; img-src {images}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
    }


class BodyTooLargeError(Exception):
    """A body has more than MAX_BODY_BYTES."""


class Limits:
    """ASGI middleware: reads each body within its limits before the application sees the request, and adds headers."""

    def __init__(self, app: ASGIApp, images: str = "'self'") -> None:
        """`images`: see `security_headers`."""
        self._app, self._headers = app, security_headers(images)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 413 or 408 if a body is too large or too slow."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read_body(receive)
        except BodyTooLargeError:
            await _refuse(send_with_headers, 413, f"a request must have at most {MAX_BODY_BYTES} bytes")
            return
        except TimeoutError:
            await _refuse(send_with_headers, 408, f"a request must arrive within {BODY_SECONDS:g} seconds")
            return
        if body is None:
            return
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(scope, receive_again, send_with_headers)


def answer_invalid(request: Request, error: Exception) -> JSONResponse:
    """422 with the reasons, without what was sent: it can be text that a response cannot hold."""
    assert isinstance(error, RequestValidationError)
    reasons = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
    text = "; ".join(reasons[:5]).encode("utf-8", "replace").decode()
    return JSONResponse({"detail": f"the request is not valid: {text}"}, 422)


class HeaderDeadline(H11Protocol):
    """Closes a connection whose first request does not begin within HEADER_SECONDS.

    Uvicorn itself waits for ever, so that silent connections could use up the process's open files.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Starts the deadline."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEADER_SECONDS, self._close_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the deadline."""
        self._deadline.cancel()
        super().connection_lost(exc)

    def _close_if_idle(self) -> None:
        if self.conn.their_state is h11.IDLE:
            self.transport.close()


async def _read_body(receive: Receive) -> bytes | None:
    """The body of a request; None if the client has left. Raises BodyTooLargeError."""
    body, size = bytearray(), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size <= MAX_BODY_BYTES:
            body += part
        more = message.get("more_body", False)
        if size > MAX_BODY_BYTES and (not more or size > DISCARDED_BYTES):
            raise BodyTooLargeError
        if not more:
            return bytes(body)


async def _refuse(send: Send, status: int, detail: str) -> None:
    """Answers without reading the rest of the request, and closes the connection."""
    content = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})

"""What the HTTP proxy of Ray Serve does with a request before it routes it.

Serve's own proxy answers 500 to a header that is not UTF-8, and lists its applications to everybody. A private cluster
loads `middlewares` by the environment variable CALLBACK_VARIABLE, which must be set before Ray starts.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

CALLBACK_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
CALLBACK = "actors.workers.http_guard.middlewares"


class Guard:
    """Refuses what Serve's proxy itself must not see."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 400 for headers that are not UTF-8, 404 for the list of routes, and passes on all else."""
        refusal = None
        if scope["type"] == "http" and not all(_is_utf8(part) for header in scope["headers"] for part in header):
            refusal = JSONResponse({"detail": "a header is not UTF-8"}, 400)
        elif scope["type"] == "http" and scope["path"] == "/-/routes":
            refusal = JSONResponse({"detail": "Not Found"}, 404)
        await (refusal or self._app)(scope, receive, send)


def middlewares() -> list[Middleware]:
    """For CALLBACK_VARIABLE."""
    return [Middleware(Guard)]


def _is_utf8(part: bytes) -> bool:
    try:
        part.decode()
    except UnicodeDecodeError:
        return False
    return True

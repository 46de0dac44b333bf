"""What the HTTP proxy of Ray Serve does with a request before it routes it.

Serve's own proxy answers 500 to a header that is not UTF-8 and to a WebSocket that no application knows, lists its
applications to everybody, and takes headers of any length. A private cluster loads `middlewares` by the environment
variable CALLBACK_VARIABLE, which must be set before Ray starts.
"""

from __future__ import annotations

from importlib.util import find_spec

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
        """Answers 400 for headers that are not UTF-8, 403 for WebSockets, 404 for the list of routes.

        Passes on all else.
        """
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        refusal = None
        if scope["type"] == "http" and not all(_is_utf8(part) for header in scope["headers"] for part in header):
            refusal = JSONResponse({"detail": "a header is not UTF-8"}, 400)
        elif scope["type"] == "http" and scope["path"] == "/-/routes":
            refusal = JSONResponse({"detail": "Not Found"}, 404)
        await (refusal or self._app)(scope, receive, send)


def middlewares() -> list[Middleware]:
    """For CALLBACK_VARIABLE. Serve calls it in the process of the proxy, before that opens its port."""
    from uvicorn.config import HTTP_PROTOCOLS  # takes a tenth of a second, which commands without a proxy can save

    if find_spec("httptools"):  # without it uvicorn uses a protocol that has a limit of its own
        HTTP_PROTOCOLS["auto"] = "actors.workers.header_limit:HeaderLimit"  # Serve has no setting for it
    return [Middleware(Guard)]


def _is_utf8(part: bytes) -> bool:
    try:
        part.decode()
    except UnicodeDecodeError:
        return False
    return True

"""The HTTP protocol of uvicorn with a limit for the headers of a request.

Uvicorn collects headers without end, before any application sees the request and can ask for the token: a client that
sends 30 MB of short header lines makes the process take 800 MB.
"""

from __future__ import annotations

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES: Final = 64 * 1024
"""Of the first line and the headers of a request."""

_REFUSAL: Final = f"the headers of a request must have at most {MAX_HEADER_BYTES} bytes"


class HeaderLimit(HttpToolsProtocol):
    """Answers 400 and closes the connection if the headers of a request, or the trailers of its body, are too long."""

    _waiting = 0
    """Bytes that the parser has taken since it passed on complete headers, or a part of a body."""
    _headers = 0
    """Bytes of the headers of this request that the parser has passed on."""

    def data_received(self, data: bytes) -> None:
        """Counts what arrives."""
        self._waiting += len(data)
        super().data_received(data)
        if self._waiting > MAX_HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response(_REFUSAL)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._headers = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Raises ValueError, which uvicorn answers with 400, if the headers are too long."""
        self._headers += len(name) + len(value)
        if self._headers > MAX_HEADER_BYTES:
            raise ValueError(_REFUSAL)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The headers are complete."""
        self._waiting = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self._waiting = 0
        super().on_body(body)

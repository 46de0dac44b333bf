"""The socket of the review server. Imports nothing heavy, so that a port in use is reported at once."""

from __future__ import annotations

import socket

from conf import UserError

_BACKLOG = 1024  # connections that wait while the server starts or is busy


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens at an address. Raises UserError if it cannot."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that cannot be encoded
        raise UserError(
            f"review.host and review.port must be an address of this machine that is free, got {host} and {port} "
            f"({error}): choose another, e.g. review.port=0 for any free port"
        ) from error

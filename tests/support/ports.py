"""Free network ports for tests with several processes."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A TCP port on which no process listens."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]

"""Whether this machine may listen on a port, asked before a server is started."""

from __future__ import annotations

import socket
from contextlib import closing

from conf import SettingsError


def port_problem(host: str, port: int) -> str:
    """Why this machine cannot listen on host:port; "" if it can. Port 0, any free port, is always possible."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a recently closed port is free
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:  # OverflowError: no port number
            return (error.strerror if isinstance(error, OSError) else None) or str(error)
    return ""


def check_port(section: str, host: str, port: int) -> None:
    """Raises SettingsError, with the fix, if this machine cannot listen on host:port."""
    if problem := port_problem(host, port):
        raise SettingsError(
            f"{section}: cannot listen on {host}:{port}: {problem}. Stop the process that uses it, or set "
            f"{section}.port (or {section}.host) to another"
        )

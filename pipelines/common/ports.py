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
        except (OSError, OverflowError, UnicodeError) as error:  # no port number, or no name of a host
            return (error.strerror if isinstance(error, OSError) else None) or str(error)
    return ""


def check_port(section: str, host: str, port: int) -> None:
    """Raises SettingsError, with the fix, if this machine cannot listen on host:port."""
    if problem := port_problem(host, port):
        raise _in_use(section, host, port, problem)


def listen(section: str, host: str, port: int, backlog: int) -> socket.socket:
    """A socket that listens on host:port, with `backlog` waiting connections. Raises SettingsError if it cannot."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=backlog)
    except (OSError, OverflowError, UnicodeError) as error:
        raise _in_use(section, host, port, str(error)) from error


def _in_use(section: str, host: str, port: int, problem: str) -> SettingsError:
    return SettingsError(
        f"{section}: cannot listen on {host}:{port}: {problem}. Stop the process that uses it, or set "
        f"{section}.port (or {section}.host) to another"
    )

"""Where a command runs: on a private Ray cluster, or on one that must answer. Asks without importing Ray."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from conf import Settings, UserError

CONNECT_TIMEOUT = 3.0
"""Seconds that a cluster has to accept a connection."""
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable that Ray sets for the entrypoint of a submitted job."""
ADDRESS_FIX = (
    "start a cluster (`ray start --head`), or set ray_address=host:port, or ray_address=local for a private one"
)
"""What to do if no cluster answers."""


def uses_private_cluster(settings: Settings) -> bool:
    """Whether a command starts its own local cluster. It never grows. A submitted job uses the cluster it runs on."""
    return settings.ray_address == "local" and IN_A_JOB not in os.environ


def check_address(address: str) -> None:
    """Raises UserError if nothing accepts connections at a cluster's address."""
    if not accepts_connections(address):
        raise UserError(f"no Ray cluster answers at ray_address={address}: {ADDRESS_FIX}")


def accepts_connections(address: str) -> bool:
    """Whether something accepts connections at host:port. Ray itself would retry for a minute.

    "auto" counts as yes if this machine may be part of a cluster, as far as that can be seen.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return _may_be_part_of_a_cluster()
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT).close()
    except (OSError, ValueError):  # ValueError: the port is not a number
        return False
    return True


def _may_be_part_of_a_cluster() -> bool:
    """Whether Ray may find a cluster by itself: by a variable, by a job, or by a process of Ray on this machine."""
    processes = Path("/proc")
    if IN_A_JOB in os.environ or "RAY_ADDRESS" in os.environ or not (processes / "self" / "cmdline").is_file():
        return True
    return any(b"gcs_server" in line or b"raylet" in line for line in _command_lines(processes))


def _command_lines(processes: Path) -> Iterator[bytes]:
    for path in processes.glob("[0-9]*/cmdline"):
        with suppress(OSError):  # the process has ended
            yield path.read_bytes()

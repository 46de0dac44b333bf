"""Names of files and folders that are being written, so that those of a killed process can be recognized and removed.

A partial carries the machine and the process of its writer: `<name>.<machine>-<pid>-<random>.partial`. A folder that is
being replaced is renamed to the same with `.old`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import uuid
from functools import cache
from pathlib import Path
from typing import Literal

PartialKind = Literal["partial", "old"]

_SUFFIX = re.compile(r"(?P<name>.+)\.(?P<machine>[0-9a-f]{8})-(?P<pid>[0-9]{1,10})-[0-9a-f]{8}\.(?P<kind>partial|old)")


def partial_path(path: str, kind: PartialKind = "partial") -> str:
    """A new name beside `path` that tells who writes it."""
    return f"{path}.{machine_id()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.{kind}"


def finished_name(name: str) -> str:
    """The name without what `partial_path` added; any other name as it is."""
    match = _SUFFIX.fullmatch(name)
    return match["name"] if match else name


def is_partial(name: str) -> bool:
    """Whether a name was made by `partial_path`."""
    return _SUFFIX.fullmatch(name) is not None


def replaced_name(name: str) -> str | None:
    """The name of the folder that was being replaced if `name` was made by `partial_path(..., "old")`, else None."""
    match = _SUFFIX.fullmatch(name)
    return match["name"] if match and match["kind"] == "old" else None


def is_abandoned(name: str) -> bool | None:
    """Whether the writer of a partial has ended. None: it is a process of another machine, or `name` is no partial."""
    match = _SUFFIX.fullmatch(name)
    if match is None or match["machine"] != machine_id():
        return None
    return int(match["pid"]) != os.getpid() and process_start(int(match["pid"])) is None


@cache
def machine_id() -> str:
    """8 hexadecimal digits for the set of processes that this one sees: a machine since its boot, or one container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # only Linux has these
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:8]


def process_start(pid: int) -> str | None:
    """When a process of this machine started, as text that no change of the clock alters; None if it has ended.

    Together with its id this names a process: ids are used again.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else _process_exists(pid)
    except (ProcessLookupError, PermissionError):
        return None
    return None if state in ("Z", "X") else fields[18]  # a zombie has ended; the field is `starttime` of proc(5)


def _process_exists(pid: int) -> str | None:
    """The text "running" if there is such a process, on a system without /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # it belongs to another user
        pass
    return "running"

"""The peak memory of a command, as the kernel counts it."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Peak:
    """The most memory that a process held, in bytes."""

    own: int  # without pages of files, which the kernel can drop
    resident: int  # with them


def peak_memory(arguments: Sequence[str]) -> Peak:
    """Runs `spatialt2i` with `arguments`. Raises AssertionError, with the output, if it fails."""
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    own, resident = 0, 0
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            with suppress(OSError):  # it has ended
                status = Path(f"/proc/{process.pid}/status").read_text()
                own, resident = max(own, _bytes(status, "RssAnon")), max(resident, _bytes(status, "VmHWM"))
            time.sleep(0.005)
        output.seek(0)
        assert process.returncode == 0, output.read()
    return Peak(own, resident)


def _bytes(status: str, field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0

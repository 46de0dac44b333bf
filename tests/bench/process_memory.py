"""Memory of a command and of all processes that it starts, measured from outside."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

MIB = 1 << 20


@dataclass(frozen=True)
class Usage:
    """What a command took."""

    seconds: float
    peak: int  # bytes of all processes at once; shared memory counts once


def run_measured(command: Sequence[str], codes: Sequence[int] = (0,), every: float = 0.5) -> Usage:
    """Runs a command to its end. Raises RuntimeError, with the end of its output, if its exit code is another one."""
    started, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as output:
        driver = psutil.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while driver.poll() is None:
            peak = max(peak, sum(map(memory_of, tree_of(driver))))
            time.sleep(every)
        if driver.returncode not in codes:
            output.seek(0)
            raise RuntimeError(f"code {driver.returncode} of {' '.join(command)}:\n{output.read()[-3000:]}")
    return Usage(time.perf_counter() - started, peak)


def tree_of(process: psutil.Process) -> list[psutil.Process]:
    """The process and all its descendants; the process alone if it has ended."""
    with suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return [process]


def memory_of(process: psutil.Process) -> int:
    """Proportional set size in bytes; 0 if the process has ended."""
    with suppress(psutil.Error, OSError):
        return process.memory_full_info().pss
    return 0

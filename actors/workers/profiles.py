"""Traces of a worker's calls by torch.profiler, for chosen iterations. They change no result.

The files open in https://ui.perfetto.dev and in chrome://tracing.
"""

from __future__ import annotations

import gzip
import logging
import tempfile
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch.profiler import ProfilerActivity, profile

from actors.files import join, write_file

MAX_CALLS = 2
"""Calls of one kind that a process records in an iteration."""
MAX_BYTES = 2**28
"""A larger compressed trace is not kept."""


@dataclass(frozen=True)
class ProfilePlan:
    """What is recorded, and where."""

    iterations: tuple[int, ...] = ()
    folder: str = ""


NO_PROFILE = ProfilePlan()
"""Records nothing."""


class CallProfiler:
    """Records calls of one process. Without iterations in its plan it does nothing."""

    _recording: ClassVar[threading.Lock] = threading.Lock()
    """torch records one trace a process at a time. A call that would be a second one is not recorded."""

    def __init__(self, plan: ProfilePlan, process: str) -> None:
        """`process`: role and number, the start of the names of its files."""
        self._plan, self._process = plan, process
        self._calls: Counter[tuple[int, str]] = Counter()

    @contextmanager
    def call(self, name: str, iteration: int) -> Generator[None]:
        """Records the block as a call of an iteration if the plan has it."""
        key = (iteration, name)
        if (
            iteration not in self._plan.iterations
            or self._calls[key] >= MAX_CALLS
            or not self._recording.acquire(blocking=False)
        ):
            yield
            return
        try:
            gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            with profile(activities=[ProfilerActivity.CPU, *gpu]) as trace:
                yield
            self._calls[key] += 1
            self._write(trace, iteration, f"{self._process}-{name}-{self._calls[key]}.json.gz")
        finally:
            self._recording.release()

    def _write(self, trace: profile, iteration: int, name: str) -> None:
        """Writes a trace. One that cannot be written is only logged."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "trace.json"
                trace.export_chrome_trace(str(file))
                content = gzip.compress(file.read_bytes(), compresslevel=3)
            if len(content) > MAX_BYTES:
                logging.warning("the trace %s has %d MiB: it is not kept", name, len(content) >> 20)
                return
            write_file(join(iteration_folder(self._plan.folder, iteration), name), content)
        except OSError as error:
            logging.warning("the trace %s was not written: %s", name, error)


def iteration_folder(folder: str, iteration: int) -> str:
    """Folder of the traces of one iteration."""
    return join(folder, f"iteration-{iteration}")

"""How benchmarks measure and print. Imports neither Ray nor torch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One row of a table."""

    what: str
    value: str


def seconds(work: Callable[[], object], repeats: int = 5, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median time of `work` by a clock, after one warm-up. The default is wall-clock time."""
    work()
    times = []
    for _ in range(repeats):
        started = clock()
        work()
        times.append(clock() - started)
    return statistics.median(times)


def show(title: str, lines: Sequence[Line]) -> None:
    """Prints one table."""
    width = max(len(line.what) for line in lines)
    print(f"\n{title}")
    for line in lines:
        print(f"  {line.what:<{width}}  {line.value}")

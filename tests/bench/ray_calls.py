"""What a call of a Ray actor costs the driver: `python -m tests.bench.ray_calls`. The simulation adds it for each call.

CPU seconds of this process, by the number of objects that a call returns. Least squares give the two constants of
tests/bench/simulate.py: those of a call, and of each object.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import ray

from tests.bench.table import Line, show

RETURNS = (1, 7, 15, 27)
CALLS, AT_ONCE = 1000, 100


class Answering:
    """Answers at once."""

    def answer(self, returns: int) -> Any:
        """As many objects as asked for."""
        return tuple(range(returns)) if returns > 1 else 0


async def cpu_seconds(actor: Any, returns: int) -> float:
    """CPU seconds of this process for one call, of which many are under way."""

    async def call() -> None:
        first = actor.answer.options(num_returns=returns, name=f"answer with {returns} objects").remote(returns)
        await (first[0] if returns > 1 else first)

    async def calls(count: int) -> None:
        for _ in range(0, count, AT_ONCE):
            await asyncio.gather(*(call() for _ in range(AT_ONCE)))

    await calls(AT_ONCE)
    started = time.process_time()
    await calls(CALLS)
    return (time.process_time() - started) / CALLS


def main() -> None:
    """Prints the measurements and the two constants."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        actor: Any = ray.remote(Answering).options(num_cpus=0).remote()
        measured = [asyncio.run(cpu_seconds(actor, returns)) for returns in RETURNS]
    finally:
        ray.shutdown()
    each, call = np.polyfit(RETURNS, measured, 1)
    lines = [
        Line(f"a call that returns {returns} objects", f"{seconds * 1e6:.0f} us")
        for returns, seconds in zip(RETURNS, measured, strict=True)
    ]
    show(
        "Ray, CPU time of the driver",
        [*lines, Line("a call", f"{call * 1e6:.0f} us"), Line("each object", f"{each * 1e6:.0f} us")],
    )


if __name__ == "__main__":
    main()

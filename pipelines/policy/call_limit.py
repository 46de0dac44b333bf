"""No wait without an end: a call that takes far longer than others of its kind is abandoned.

Times are those of the event loop's clock.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter, defaultdict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Literal

from pipelines.policy.timing import now

CallKind = Literal[
    "sample", "evaluate", "score", "watch", "start", "load", "accumulate", "optimizer step", "publish", "checkpoint"
]

MEDIANS = 10
"""A call may take this many times the median of its kind, plus the margin."""

MARGINS_WITHOUT_MEDIAN = 6
"""A call may take this many margins while fewer than `MIN_FINISHED` of its kind have finished."""

MIN_FINISHED = 3
RECENT = 100
"""The median is that of the newest calls of a kind."""


class CallAbandonedError(RuntimeError):
    """A call did not return in time. Whoever works on it must be replaced."""


class CallLimits:
    """How long calls of each kind may take, by how long the finished ones took."""

    def __init__(self, margin_s: float = 600.0) -> None:
        """`margin_s`: see `policy.call_margin_s`."""
        self.margin_s = margin_s
        self.abandoned: Counter[CallKind] = Counter()
        """Calls that did not return in time."""
        self._finished: defaultdict[CallKind, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))

    def seconds(self, kind: CallKind) -> float:
        """How long a call of this kind may take that starts now."""
        finished = self._finished[kind]
        if len(finished) < MIN_FINISHED:
            return MARGINS_WITHOUT_MEDIAN * self.margin_s
        return MEDIANS * statistics.median(finished) + self.margin_s

    @asynccontextmanager
    async def limit(self, kind: CallKind) -> AsyncGenerator[None]:
        """Limits and measures its block, one call. Raises CallAbandonedError if it takes too long."""
        started, seconds = now(), self.seconds(kind)
        scope = asyncio.timeout(seconds)
        try:
            async with scope:
                yield
        except TimeoutError as error:
            if not scope.expired():  # raised by the call itself
                raise
            self.abandoned[kind] += 1
            raise CallAbandonedError(
                f"a call of kind {kind!r} did not return within {seconds:.0f} s ({MEDIANS} x the median of such calls "
                "plus policy.call_margin_s, or a multiple of the latter before there is a median)"
            ) from error
        self._finished[kind].append(now() - started)

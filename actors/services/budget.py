"""What remote calls have cost so far, and whether another call may be sent."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from actors.json_lines import append_row, read_log
from conf.endpoints import BudgetSettings


class BudgetReached(RuntimeError):
    """A limit of the budget is reached. The message names the limit, what was spent and the fix."""


@dataclass(frozen=True)
class Usage:
    """Number of calls and what they cost. Two usages can be added."""

    calls: int = 0  # requests sent, retries included
    retries: int = 0  # requests that repeat a failed one
    tokens: int = 0  # input and output tokens
    images: int = 0
    cost: float = 0.0  # in the currency of the price settings

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.calls + other.calls,
            self.retries + other.retries,
            self.tokens + other.tokens,
            self.images + other.images,
            self.cost + other.cost,
        )

    def __str__(self) -> str:
        return (
            f"{self.calls} calls ({self.retries} retries), {self.tokens} tokens, {self.images} images, "
            f"cost {self.cost:.2f}"
        )


class Budget(Protocol):
    """The caller's side of a BudgetTracker, which runs in this process or in a Ray actor."""

    async def acquire(self, caller: str, calls_per_minute: int, /) -> float:
        """See BudgetTracker.acquire."""
        ...

    async def record(self, usage: Usage, /) -> None:
        """See BudgetTracker.record."""
        ...


class BudgetTracker:
    """Enforces one budget and one rate limit for all callers. On a cluster it runs in an actor that they share.

    With a usage file every call appends a line to it, so that the limits hold across restarts.
    """

    def __init__(self, budget: BudgetSettings | None = None, usage_file: str = "") -> None:
        """Reads the usage so far from `usage_file`; if it is empty, usage is kept in memory only."""
        self._budget = budget or BudgetSettings()
        self._file = Path(usage_file) if usage_file else None
        self._usage = self._read()
        self._next_call: dict[str, float] = {}  # caller -> earliest time of its next call, on the monotonic clock

    def acquire(self, caller: str, calls_per_minute: int) -> float:
        """Returns the seconds that `caller` must wait before it sends a call.

        `calls_per_minute`: rate limit of this caller; 0 means no limit. Raises BudgetReached if a limit is reached.
        """
        budget, usage = self._budget, self._usage
        limits = {
            "calls": (budget.calls, usage.calls),
            "tokens": (budget.tokens, usage.tokens),
            "cost": (budget.cost, usage.cost),
        }
        for name, (limit, spent) in limits.items():
            if limit and spent >= limit:
                raise BudgetReached(
                    f"budget.{name}={limit} is reached after {usage}: raise the limit and start the command again"
                )
        if not calls_per_minute:
            return 0.0
        now = time.monotonic()
        send_at = max(now, self._next_call.get(caller, now))
        self._next_call[caller] = send_at + 60.0 / calls_per_minute
        return send_at - now

    def record(self, usage: Usage) -> None:
        """Adds the usage of one call, and appends it to the usage file."""
        self._usage += usage
        if self._file:
            append_row(self._file, asdict(usage))

    def usage(self) -> Usage:
        """Everything recorded so far, by earlier processes too."""
        return self._usage

    def _read(self) -> Usage:
        if self._file is None:
            return Usage()
        self._file.parent.mkdir(parents=True, exist_ok=True)
        return sum(read_log(self._file, _usage_of), Usage())


def _usage_of(row: dict[str, Any]) -> Usage:
    """The usage in a line of the file. Raises TypeError or ValueError if it is none."""
    numbers = [*row.values()]
    if any(type(number) not in (int, float) for number in numbers):
        raise TypeError("usage must be numbers")
    if any(not math.isfinite(number) or number < 0 for number in numbers):
        raise ValueError("usage must be finite and not negative")
    return Usage(**row)


class LocalBudget:
    """The budget of this process alone. Without a tracker it has no limits."""

    def __init__(self, tracker: BudgetTracker | None = None) -> None:
        self._tracker = tracker or BudgetTracker()

    async def acquire(self, caller: str, calls_per_minute: int) -> float:
        """See BudgetTracker.acquire."""
        return self._tracker.acquire(caller, calls_per_minute)

    async def record(self, usage: Usage) -> None:
        """See BudgetTracker.record."""
        self._tracker.record(usage)


class CountedBudget:
    """Another budget, and the number of retries that went through it."""

    def __init__(self, budget: Budget) -> None:
        self._budget, self._retries = budget, 0

    async def acquire(self, caller: str, calls_per_minute: int) -> float:
        """See BudgetTracker.acquire."""
        return await self._budget.acquire(caller, calls_per_minute)

    async def record(self, usage: Usage) -> None:
        """See BudgetTracker.record."""
        self._retries += usage.retries
        await self._budget.record(usage)

    def take_retries(self) -> int:
        """Retries since the last call of this method."""
        taken, self._retries = self._retries, 0
        return taken

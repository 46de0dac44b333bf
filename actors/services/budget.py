"""What remote calls cost so far, and whether another one may be sent."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from conf.endpoints import BudgetSettings


class BudgetReached(RuntimeError):
    """No further call may be sent. Its text names the limit, what was spent and the mend."""


@dataclass(frozen=True)
class Usage:
    """Calls and what they cost. Adds up."""

    calls: int = 0  # requests sent
    retries: int = 0  # of these, sent again
    tokens: int = 0  # read and written
    images: int = 0
    cost: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Usage)))

    def __str__(self) -> str:
        parts = [f"{self.calls} calls ({self.retries} repeated)", f"{self.tokens} tokens", f"{self.images} images"]
        return ", ".join([*parts, f"{self.cost:.2f} money"])


class BudgetTracker:
    """One account and one pace for all who call. On a cluster it is an actor that all of them share.

    The account is a file to which every call adds a line, so that a limit holds over restarts.
    """

    def __init__(self, budget: BudgetSettings | None = None, account: str = "") -> None:
        """`account`: the file; empty: this process's memory."""
        self._budget = budget or BudgetSettings()
        self._account = Path(account) if account else None
        self._spent = self._read()
        self._next: dict[str, float] = {}  # caller -> when its next call may be sent

    def acquire(self, caller: str, calls_per_minute: int) -> float:
        """Seconds that `caller` must wait before it sends a call. Raises BudgetReached if it may send none."""
        for name in ("calls", "tokens", "money"):
            limit, spent = getattr(self._budget, name), getattr(self._spent, name)
            if limit and spent >= limit:
                raise BudgetReached(f"budget.{name}={limit} is reached, {self._spent}: raise it and start again")
        if not calls_per_minute:
            return 0.0
        now = time.monotonic()
        turn = max(now, self._next.get(caller, now))
        self._next[caller] = turn + 60.0 / calls_per_minute
        return turn - now

    def record(self, spent: Usage) -> None:
        """Adds to the account."""
        self._spent += spent
        if self._account:
            with self._account.open("a") as file:
                file.write(json.dumps(asdict(spent)) + "\n")

    def usage(self) -> Usage:
        """All that was recorded, by earlier processes too."""
        return self._spent

    def _read(self) -> Usage:
        if self._account is None:
            return Usage()
        self._account.parent.mkdir(parents=True, exist_ok=True)
        if not self._account.exists():
            return Usage()
        lines = self._account.read_text().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("}\n")]  # a killed process may leave half a line
        if len(whole) < len(lines):
            self._account.write_text("".join(whole))
        return sum((Usage(**json.loads(line)) for line in whole), Usage())

"""The progress of a build: rows generated, reviewed and saved, the rate, and the time left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from pipelines.common.progress_line import Pace, clock
from pipelines.preferences.dataset.shards import Shard
from pipelines.preferences.ops import REVIEWED
from pipelines.preferences.services import ServiceContext


class BuildProgress:
    """Follows the counts of the workers. Shards are finished together at the end, so finished shards say little."""

    def __init__(self, missing: Sequence[Shard], total: int, services: ServiceContext) -> None:
        """`missing`: the shards to build. `total`: rows of all shards."""
        self._rows: Counter[str] = Counter()
        for shard in missing:
            self._rows[shard.generator] += shard.stop - shard.start
        self.missing = self._rows.total()
        self.saved = 0
        """Rows of finished shards. The driver counts them."""
        self._before, self._total, self._services = total - self.missing, total, services
        self._paces = {name: Pace() for name in (*self._rows, REVIEWED)}

    def state(self) -> str:
        """For example "generated 2100, reviewed 500, saved 250 of 6000 pairs  21 pairs/s  3:05 min left".

        It is "" until the first rows are generated.
        """
        counts = {name: min(count, self._limit(name)) for name, count in self._services.counter.read().items()}
        for name, pace in self._paces.items():
            pace.count(counts.get(name, 0), time.monotonic())
        generated = sum(counts.get(name, 0) for name in self._rows)
        reviewed = max(counts.get(REVIEWED, 0), self.saved)
        done = [self._before + count for count in (max(generated, reviewed), reviewed, self.saved)]
        text = "generated {}, reviewed {}, saved {}".format(*done) + f" of {self._total} pairs"
        if generated == 0:
            return ""
        if self.saved < self.missing:
            text += self._speed(counts)
        usage = self._services.budget.usage()
        return text + (f"  {usage}" if usage.calls else "")

    def _limit(self, name: str) -> int:
        """Rows of a count at most: a task that is repeated after a failure counts its rows twice."""
        return self._rows.get(name, self.missing)

    def _speed(self, counts: dict[str, int]) -> str:
        """The rate and the time left of what is under way: of the slowest generator, then of the review."""
        names = [name for name in self._rows if counts.get(name, 0) < self._rows[name]] or [REVIEWED]
        rates = [self._paces[name].rate() for name in names]
        left = [self._paces[name].seconds_left(self._limit(name) - counts.get(name, 0)) for name in names]
        known = [seconds for seconds in left if seconds is not None]
        speed = f"  {sum(rate or 0.0 for rate in rates):.3g} pairs/s" if any(rates) else ""
        return speed + (f"  {clock(max(known))} left" if len(known) == len(left) else "")

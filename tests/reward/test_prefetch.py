"""A thread makes the next items: in order, bounded, with the errors of the source, and ended with its consumer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from pipelines.reward.prefetch import prefetched


def test_items_come_in_order_and_an_error_comes_at_its_place() -> None:
    def source() -> Iterator[int]:
        yield from range(5)
        raise ValueError("damaged")

    items = prefetched(source())
    assert [next(items) for _ in range(5)] == list(range(5))
    with pytest.raises(ValueError, match="damaged"):
        next(items)


def test_only_a_few_items_are_made_ahead_and_the_thread_ends_with_its_consumer() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for item in range(1000):
            made.append(item)
            yield item

    with closing(prefetched(source(), ahead=2)) as items:
        assert next(items) == 0
        deadline = time.monotonic() + 10
        while len(made) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert made == [0, 1, 2, 3], "one in use, two made ahead, and one that waits for room"
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]

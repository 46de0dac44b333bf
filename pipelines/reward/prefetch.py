"""Makes the next items in a thread while the caller works on one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar, cast

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Failure:
    error: BaseException


_END = object()


def prefetched(items: Iterable[Item], ahead: int = 1) -> Generator[Item]:
    """Yields the items in order, while a thread makes up to `ahead` more of them.

    An exception of `items` is raised here, at its place in the order. The thread ends when this generator is closed.
    """
    made: queue.Queue[object] = queue.Queue(ahead)
    closed = threading.Event()

    def put(item: object) -> bool:
        while not closed.is_set():
            with suppress(queue.Full):
                made.put(item, timeout=0.1)
                return True
        return False

    def make() -> None:
        try:
            for item in items:
                if not put(item):
                    return
        except BaseException as error:  # the caller's thread raises it
            put(_Failure(error))
        else:
            put(_END)

    thread = threading.Thread(target=make, daemon=True, name="prefetch")
    thread.start()
    try:
        while (item := made.get()) is not _END:
            if isinstance(item, _Failure):
                raise item.error
            yield cast(Item, item)
    finally:
        closed.set()
        thread.join(timeout=5)

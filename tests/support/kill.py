"""Kills a process of this session's Ray, found by the title that Ray gives it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress

import psutil


def titled(processes: Iterable[psutil.Process], title: str) -> Iterator[psutil.Process]:
    """The processes with `title` in their command line. Ended processes and zombies have none."""
    for process in processes:
        with suppress(psutil.Error):
            if title in " ".join(process.cmdline()):
                yield process


@contextmanager
def killing(title: str, when: Callable[[], bool] = lambda: True) -> Generator[list[int]]:
    """Kills one process with `title` in its command line once `when()` is true. Yields the ids of killed processes."""
    killed: list[int] = []
    stop = threading.Event()

    def search() -> None:
        while not killed and not stop.wait(0.02):
            for process in titled(psutil.Process().children(recursive=True), title) if when() else ():
                with suppress(psutil.Error):
                    process.kill()
                    killed.append(process.pid)
                    return

    thread = threading.Thread(target=search, daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()

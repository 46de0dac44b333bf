"""SIGKILL for a process of this session's Ray, by the title that Ray gives it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

import psutil


def titled(processes: Iterable[psutil.Process], title: str) -> Iterator[psutil.Process]:
    """Those with `title` in their command. One that has ended, a zombie say, has none."""
    for process in processes:
        with suppress(psutil.Error):
            if title in " ".join(process.cmdline()):
                yield process


@contextmanager
def killing(title: str, when: Callable[[], bool] = lambda: True) -> Iterator[list[int]]:
    """Inside, one process with `title` in its command is killed once `when()` holds. Yields the ids of the dead."""
    killed: list[int] = []
    over = threading.Event()

    def hunt() -> None:
        while not killed and not over.wait(0.02):
            for process in titled(psutil.Process().children(recursive=True), title) if when() else ():
                with suppress(psutil.Error):
                    process.kill()
                    killed.append(process.pid)
                    return

    hunter = threading.Thread(target=hunt, daemon=True)
    hunter.start()
    try:
        yield killed
    finally:
        over.set()
        hunter.join()

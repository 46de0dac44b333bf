"""Looks at many files at a time: on a network disk or an object store nearly all of the time is waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

THREADS = 16

Result = TypeVar("Result")


def map_files(look: Callable[[str], Result], files: Sequence[str]) -> Iterator[Result]:
    """What `look` returns for each file, in the order of the files. Files that wait are left alone after an error."""
    with ThreadPoolExecutor(THREADS, thread_name_prefix="files") as pool:
        yield from pool.map(look, files)

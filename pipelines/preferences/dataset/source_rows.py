"""The rows of a folder of pairs: all of them, some of their columns, or in random order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipelines.preferences.dataset.split_writer import ROW_GROUP
from pipelines.preferences.review.pairs import pair_files

MIXED_GROUPS = 16
"""Row groups whose rows are mixed at a time. A build's row group has at most 48 MB."""


def read_columns(folder: Path, columns: list[str]) -> list[dict[str, Any]]:
    """Some columns of all rows, in the order of the files. Raises UserError if there are none."""
    return [row for path in pair_files(folder) for row in pq.read_table(path, columns=columns).to_pylist()]


def read_rows(folder: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """All rows, or some columns of them, a few in memory at a time. Raises UserError if there are none."""
    for path in pair_files(folder):
        yield from _rows_of(path, columns)


def read_shuffled(folder: Path, seed: str) -> Iterator[dict[str, Any]]:
    """All rows in an order that depends on the seed only: row groups in random order, mixed MIXED_GROUPS at a time.

    In a build the rows of one generator follow each other. Here they do not.
    """
    rng = random.Random(seed)
    files = [pq.ParquetFile(path) for path in pair_files(folder)]
    groups = [(file, number) for file in files for number in range(file.num_row_groups)]
    rng.shuffle(groups)
    waiting = iter(groups)
    open_groups = [_shuffled(rng, *group) for group in islice(waiting, MIXED_GROUPS)]
    while open_groups:
        number = rng.randrange(len(open_groups))
        if open_groups[number]:
            yield open_groups[number].pop()
        elif group := next(waiting, None):
            open_groups[number] = _shuffled(rng, *group)
        else:
            open_groups.pop(number)


def _shuffled(rng: random.Random, file: pq.ParquetFile, group: int) -> list[dict[str, Any]]:
    rows = file.read_row_group(group).to_pylist()
    rng.shuffle(rows)
    return rows


def _rows_of(path: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    for batch in pq.ParquetFile(path).iter_batches(batch_size=ROW_GROUP, columns=columns):
        yield from batch.to_pylist()

"""Reads rows of parquet row groups in small batches.

Arrow addresses the bytes of a column of images with 32-bit offsets, so a table with more than 2 GiB of images in one
column cannot be sorted, concatenated or indexed. Here no two batches of images are ever put together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, zip_longest
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq

from actors.files import file_system
from pipelines.common.map_files import map_files
from pipelines.reward.locations import PairSource

BATCH_ROWS = 16
"""Rows whose images are in memory as files: up to 0.25 GiB with the images of 2048 x 2048 pixels."""
_BUFFER_BYTES = 8 * 2**20
_CONDITION = ("split", "review", "group_id")  # columns that decide whether a row is used


_Found = tuple[int, str, tuple[str, str, int], int]
"""Number of the folder, sort key, row group, number of the row."""


@dataclass(frozen=True)
class RowPlace:
    """Rows of one row group of a parquet file."""

    folder: str  # path or URI
    path: str  # inside the folder's file system
    index: int  # of the row group
    rows: tuple[int, ...]  # numbers of rows in the row group, in any order


def parquet_files(folder: str) -> list[str]:
    """The paths of a folder's parquet files inside its file system, sorted. Raises FileNotFoundError."""
    system, path = file_system(folder)
    return sorted(pyarrow.dataset.dataset(path, filesystem=system).files)  # pyright: ignore[reportAttributeAccessIssue]


def open_parquet(folder: str, path: str) -> pq.ParquetFile:
    """Opens a file of `parquet_files`."""
    return pq.ParquetFile(path, filesystem=file_system(folder)[0], buffer_size=_BUFFER_BYTES)


def matching_rows(file: pq.ParquetFile, index: int, condition: pc.Expression) -> tuple[list[str], np.ndarray]:
    """Ids and numbers of a row group's rows that fulfil a condition on split, review and group. Reads no image."""
    table = file.read_row_group(index, columns=["pair_id", *_CONDITION])
    table = table.append_column("number", pa.array(np.arange(table.num_rows))).filter(condition)
    return table["pair_id"].to_pylist(), table["number"].to_numpy()


def read_rows_at(place: RowPlace, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a place in ascending order of their numbers, BATCH_ROWS of the file in memory at a time."""
    wanted, start = np.unique(np.array(place.rows, np.int64)), 0
    file = open_parquet(place.folder, place.path)
    for batch in file.iter_batches(BATCH_ROWS, row_groups=[place.index], columns=list(columns)):
        here = wanted[(start <= wanted) & (wanted < start + batch.num_rows)] - start
        start += batch.num_rows
        for number in here.tolist():
            yield batch.slice(number, 1).to_pylist()[0]
        if start > wanted[-1]:
            return


def find_rows(
    source: PairSource, splits: Sequence[str], limit: int | None = None, *, sample: bool = False
) -> list[RowPlace]:
    """Where the usable rows of some splits are, file by file.

    `limit`: the first rows by id of each folder, of all folders evenly. `sample`: not the first rows but a fixed random
    sample, because rows of neighbouring ids are of one generator.
    """
    found: list[_Found] = []
    for number, folder in enumerate(source.folders):
        files = parquet_files(folder)
        matching = map_files(partial(_matching_rows_of_file, folder, condition=source.rows(splits)), files)
        for path, groups in zip(files, matching, strict=True):
            for index, (ids, rows) in enumerate(groups):
                keys = [_digest(pair_id) if sample else pair_id for pair_id in ids]
                found += [
                    (0 if sample else number, key, (folder, path, index), row)
                    for key, row in zip(keys, rows.tolist(), strict=True)
                ]
    if limit is not None:
        found = _first_of_each(sorted(found), limit)
    by_group: dict[tuple[str, str, int], list[int]] = {}
    for _, _, group, row in found:
        by_group.setdefault(group, []).append(row)
    return [RowPlace(*group, tuple(sorted(rows))) for group, rows in sorted(by_group.items())]


def _first_of_each(found: Sequence[_Found], limit: int) -> list[_Found]:
    """The first `limit` of sorted rows: the first one of every folder, then the second one of every folder."""
    folders = [list(rows) for _, rows in groupby(found, key=itemgetter(0))]
    return [row for rows in zip_longest(*folders) for row in rows if row][:limit]


def _matching_rows_of_file(folder: str, path: str, condition: pc.Expression) -> list[tuple[list[str], np.ndarray]]:
    """`matching_rows` of each row group."""
    file = open_parquet(folder, path)
    return [matching_rows(file, index, condition) for index in range(file.num_row_groups)]


def _digest(pair_id: str) -> str:
    return hashlib.blake2b(f"sample|{pair_id}".encode(), digest_size=8).hexdigest()

"""Writes published rows to parquet files, one series of files for each split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.preferences.dataset.published import PUBLISHED_SCHEMA, published_row
from pipelines.preferences.roles.base import Review

ROW_GROUP = 16  # rows of a row group: readers load this many pairs of images at once


@dataclass
class _OpenFile:
    writer: pq.ParquetWriter
    rows: int = 0


@dataclass
class SplitWriter:
    """Files `<split>-<number>.parquet` in `folder`, with at most `shard_rows` rows each."""

    folder: Path
    shard_rows: int
    _buffers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # split -> rows not written yet
    _files: dict[str, _OpenFile] = field(default_factory=dict)  # split -> the file that is being written
    _numbers: dict[str, int] = field(default_factory=dict)  # split -> number of its newest file

    def write(self, row: Mapping[str, Any], review: Review | None) -> dict[str, Any]:
        """Writes one row of a build and returns it as it is published."""
        split, published = row["split"], published_row(row, review)
        buffer = self._buffers.setdefault(split, [])
        buffer.append(published)
        written = self._files[split].rows if split in self._files else 0
        if len(buffer) == min(ROW_GROUP, self.shard_rows - written):
            self._flush(split)
        return published

    def close(self) -> None:
        """Writes the buffered rows and closes the files."""
        for split in list(self._buffers):
            self._flush(split)
        for file in self._files.values():
            file.writer.close()

    def _flush(self, split: str) -> None:
        rows = self._buffers.pop(split)
        file = self._files.get(split) or self._open(split)
        file.writer.write_table(pa.Table.from_pylist(rows, schema=PUBLISHED_SCHEMA))
        file.rows += len(rows)
        if file.rows >= self.shard_rows:
            self._files.pop(split).writer.close()

    def _open(self, split: str) -> _OpenFile:
        number = self._numbers[split] = self._numbers.get(split, -1) + 1
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{split}-{number:05d}.parquet"
        file = self._files[split] = _OpenFile(pq.ParquetWriter(path, PUBLISHED_SCHEMA, compression="zstd"))
        return file

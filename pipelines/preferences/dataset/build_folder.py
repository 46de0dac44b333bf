"""The folder of one build, on a file system that all nodes share.

    preferences/{train,test}-00003.parquet             rows of shard 3
    preferences/.shards/duplicate-00003.parquet        rows of shard 3 that are near-duplicates of earlier ones
    preferences/.shards/00003.json                     written after them: shard 3 is complete; its dropped rows
    preferences/.shards/starts-00003.json              starts that left rows of shard 3 without an answer
    preferences/.shards/parts.json                     the rows of the first build and of each extension
    preferences/_manifest.json                         written last: the build is complete

A build that was killed continues with the shards that have no report.
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from actors.files import write_file
from actors.folders import MARKER, Marker, write_marker
from actors.json_files import read_object, read_record, record_or_none
from conf import UserError
from pipelines.common.paths import RunPaths
from pipelines.preferences.dataset.schema import SCHEMA_VERSION, pair_id
from pipelines.preferences.dataset.shards import Shard
from pipelines.preferences.dataset.splits import DUPLICATE, SPLITS
from pipelines.preferences.dataset.table_files import TableFile, describe, is_damaged
from pipelines.preferences.roles.base import Dropped

ROW_GROUP_BYTES = 48 << 20
"""Most bytes that a reader holds at once: about 16 pairs of 1024 x 1024 pixels, or a whole shard of small images."""

INDEX_COLUMNS = [
    "pair_id",
    "group_id",
    "split",
    "kind",
    "prompt",
    "perturbed_prompt",
    "n_perturb",
    "image_w.phash",
    "image_l.phash",
]
"""The columns of a row without its images."""


_SHARDS = ".shards"
_TABLE = re.compile(rf"({'|'.join(SPLITS)}|{_SHARDS}/{DUPLICATE})-[0-9]{{5,}}\.parquet")


@dataclass(frozen=True)
class DroppedRow:
    """A row without a pair, in the report of its shard."""

    pair_id: str
    role: str
    reason: str
    message: str


@dataclass(frozen=True)
class BuildParts:
    """How many rows the first build and each extension have."""

    rows: list[int]


@dataclass(frozen=True)
class ShardStarts:
    """How often rows had no answer."""

    starts: dict[str, int]
    """Pair id -> starts of the build."""


@dataclass(frozen=True)
class ShardReport:
    """What makes a shard count as finished."""

    fingerprint: str
    rows: int
    rejected: int
    dropped: list[DroppedRow]


@dataclass(frozen=True)
class BuildManifest:
    """The entries of the manifest that the build itself reads."""

    fingerprint: str
    pairs: int
    by_split: dict[str, int]
    seconds: float
    files: list[TableFile]


class BuildFolder:
    """The parquet files, shard reports and manifest of one build."""

    def __init__(self, paths: RunPaths, fingerprint: str) -> None:
        """Raises UserError if the folder holds a build with other settings, or files that are not of a build."""
        self._paths, self.path, self.fingerprint = paths, paths.preferences, fingerprint
        is_build = (self.path / MARKER).exists() or paths.preferences_manifest.exists() or self._reports()
        if not is_build and (foreign := self._tables()):
            raise UserError(
                f"{foreign[0]} was not written by this run and would be replaced: move it, or choose another run_dir"
            )
        for path in (paths.preferences_manifest, *self._reports(), *self._tables()):
            if path.is_dir():
                raise UserError(f"{path} must be a file, got a folder: move it, or choose another run_dir")
        self._manifest = _read_manifest(paths.preferences_manifest)
        reports = {path.stem: record_or_none(str(path), ShardReport) for path in self._reports()}
        self._finished = {shard for shard, report in reports.items() if report}
        for made in (self._manifest, *reports.values()):
            if made and made.fingerprint != fingerprint:
                raise UserError(
                    f"{self.path} must hold pairs that were built with these settings ({fingerprint}), but they were "
                    f"built with other settings ({made.fingerprint}): delete the folder or choose another run_dir"
                )

    def read_manifest(self) -> dict[str, Any] | None:
        """The manifest of a complete build, else None. A shard with a damaged or missing file becomes unfinished.

        A damaged manifest is passed over: the build ends again, with the shards that it has.
        """
        if self._manifest is None:
            return None
        damaged = [file.name for file in self._manifest.files if is_damaged(self.path, file)]
        for shard in (Path(name).stem.partition("-")[2] for name in damaged):
            self._finished.discard(shard)
            self._report(shard).unlink(missing_ok=True)
        return None if damaged else read_object(str(self._paths.preferences_manifest))

    def parts(self, rows: int) -> list[int]:
        """The rows of the first build and of each extension. If `rows` are more than their sum, an extension is added.

        The parts are recorded, so that a later start makes the same shards.
        """
        record = record_or_none(str(self._parts), BuildParts)
        if record is None and self._parts.exists():
            raise UserError(f"{self._parts} is damaged: restore it, or delete {self.path} or choose another run_dir")
        parts = record.rows if record else []
        if (more := rows - sum(parts)) > 0:
            parts = [*parts, more]
            write_file(str(self._parts), json.dumps(asdict(BuildParts(parts))).encode())
        return parts

    def count_starts(self, shard: Shard, rows: Sequence[int]) -> int:
        """Counts a start that left `rows` of a shard without an answer. Returns the least count of one of them."""
        path = self._paths.preferences_shards / f"starts-{shard.index:05d}.json"
        record = record_or_none(str(path), ShardStarts)
        before = record.starts if record else {}
        starts = {pair_id(row): before.get(pair_id(row), 0) + 1 for row in rows}
        write_file(str(path), json.dumps(asdict(ShardStarts(before | starts))).encode())
        return min(starts.values())

    def is_finished(self, shard: Shard) -> bool:
        """Whether all rows of a shard were on disk when this folder was opened. A damaged report does not count."""
        return f"{shard.index:05d}" in self._finished

    def write(self, shard: Shard, table: pa.Table, rejected: int, dropped: Sequence[Dropped]) -> None:
        """Writes the rows of a shard by split, and then the report that makes it count as finished."""
        if not (self.path / MARKER).exists():
            write_marker(str(self.path), Marker("preferences"))
        self._write_splits(f"{shard.index:05d}", table)
        ends = [DroppedRow(pair_id(row.spec.index), row.role, row.reason, row.message) for row in dropped]
        report = ShardReport(self.fingerprint, len(table), rejected, ends)
        write_file(str(self._report(f"{shard.index:05d}")), json.dumps(asdict(report)).encode())

    def read_index(self) -> pa.Table:
        """All rows without their images, sorted by pair id, with the column `shard` added.

        If `assign_splits` was killed, a pair can be in two files; then it is in the index twice.
        """
        parts: list[pa.Table] = []
        for path in self._tables():
            rows = pq.ParquetFile(path).read(columns=INDEX_COLUMNS)
            parts.append(rows.append_column("shard", pa.array([path.stem.partition("-")[2]] * len(rows))))
        return pa.concat_tables(parts).sort_by("pair_id")

    def assign_splits(self, shard: str, splits: Mapping[str, str]) -> None:
        """Moves each row of a shard to the file of its split. `splits`: pair id -> split, of every row."""
        paths = [path for path in self._tables() if path.stem.endswith(f"-{shard}")]
        table = pa.concat_tables(pq.read_table(path) for path in paths)
        rows = {pair: row for row, pair in enumerate(table["pair_id"].to_pylist())}
        table = table.take([rows[pair] for pair in sorted(rows)])
        column = pa.array([splits[pair] for pair in sorted(rows)], pa.string())
        self._write_splits(shard, table.set_column(table.schema.get_field_index("split"), "split", column))

    def write_manifest(self, build: Mapping[str, Any]) -> dict[str, Any]:
        """Counts the rows, adds the entries of `build`, writes the manifest and returns it."""
        reports = [read_record(str(path), ShardReport) for path in self._reports()]
        dropped = [f"{row.role}: {row.reason}" for report in reports for row in report.dropped]
        names = [str(path.relative_to(self.path)) for path in self._tables()]
        columns = ["split", "kind", "n_perturb", "group_id", "generator"]
        rows = pa.concat_tables(pq.read_table(self.path / name, columns=columns) for name in names)
        rows = rows.filter(pc.field("split") != DUPLICATE)
        known = {file.name: file for file in self._manifest.files} if self._manifest else {}
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "fingerprint": self.fingerprint,
            "pairs": len(rows),
            "groups": len(rows["group_id"].unique()),
            "by_split": _counts(rows, "split"),
            "by_kind": _counts(rows, "kind"),
            "by_n_perturb": _counts(rows, "n_perturb"),
            "by_generator": _counts(rows, "generator"),
            "rejected": sum(report.rejected for report in reports),
            "dropped": dict(sorted(Counter(dropped).items())),
            **build,
            "files": [asdict(describe(self.path, name, known)) for name in names],
        }
        write_file(str(self._paths.preferences_manifest), json.dumps(manifest, indent=2).encode())
        return manifest

    @property
    def _parts(self) -> Path:
        return self._paths.preferences_shards / "parts.json"

    def _reports(self) -> list[Path]:
        found = self._paths.preferences_shards.glob("*.json")
        return sorted(path for path in found if re.fullmatch(r"[0-9]{5,}", path.stem))

    def _tables(self) -> list[Path]:
        """The parquet files of a build. Others in the folder are left alone."""
        found = (*self.path.glob("*.parquet"), *self._paths.preferences_shards.glob("*.parquet"))
        return sorted(path for path in found if _TABLE.fullmatch(str(path.relative_to(self.path))))

    def _report(self, shard: str) -> Path:
        return self._paths.preferences_shards / f"{shard}.json"

    def _write_splits(self, shard: str, table: pa.Table) -> None:
        """Writes new rows before it removes old ones, so that a kill between the two loses no row."""
        for split in (DUPLICATE, *reversed(SPLITS)):
            folder = self._paths.preferences_shards if split == DUPLICATE else self.path
            path, rows = folder / f"{split}-{shard}.parquet", table.filter(pc.field("split") == split)
            if len(rows):
                _write_table(path, rows)
            else:
                path.unlink(missing_ok=True)


def _write_table(path: Path, table: pa.Table) -> None:
    buffer = io.BytesIO()
    rows = max(1, ROW_GROUP_BYTES * len(table) // table.nbytes)
    pq.write_table(table, buffer, compression="zstd", row_group_size=rows)
    write_file(str(path), buffer.getvalue())


def _counts(rows: pa.Table, column: str) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(rows[column].to_pylist()).items())}


def _read_manifest(path: Path) -> BuildManifest | None:
    """The manifest; None, with a warning, if it is damaged, or None if there is none."""
    manifest = record_or_none(str(path), BuildManifest, more_keys=True)
    if manifest and not (manifest.files and all(_TABLE.fullmatch(file.name) for file in manifest.files)):
        logging.warning("%s does not list the tables of a build; it is passed over", path)
        return None
    return manifest

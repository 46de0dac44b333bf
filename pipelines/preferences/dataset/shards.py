"""The folder of a build: what its shards are, which are finished, and the manifest that says all of them are.

    <run_dir>/preferences/{train,test,…}-00003.parquet rows of shard 3
    <run_dir>/preferences/.shards/00003.json     written after them: shard 3 is complete; rows without a pair
    <run_dir>/preferences/_manifest.json         written last: the build is complete

A shard is a pure function of the settings, so a build that was killed goes on with the shards that are missing.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from actors.files import write_file
from conf.preferences import PreferencesSettings
from pipelines.preferences.dataset.schema import SCHEMA_VERSION, pair_id
from pipelines.preferences.dataset.splits import SPLITS
from pipelines.preferences.roles.base import Dropped, RowSpec

BASE = "base"
"""The painter of generated pairs: the base policy."""

ROW_GROUP_BYTES = 48 << 20
"""What a reader holds at a time, at most: about 16 pairs of 1024 x 1024 pixels, or a whole shard of small pictures."""

INDEX = [
    "pair_id", "group_id", "split", "kind", "prompt", "perturbed_prompt", "n_perturb", "image_w.phash", "image_l.phash",
]  # fmt: skip
"""Columns that tell a row without its pictures."""


@dataclass(frozen=True)
class Shard:
    """Rows [start, stop) of a build, all of one painter."""

    index: int
    start: int
    stop: int
    generator: str  # BASE, or a field of GeneratorWeights


def plan_shards(settings: PreferencesSettings) -> list[Shard]:
    """Cuts a build into shards of `shard_rows`: the painters' rows one after the other, the base policy's last."""
    drawn = settings.pairs - round(settings.pairs * settings.generated_fraction)
    weights = asdict(settings.generators)
    bounds = [round(drawn * share) for share in accumulate(w / sum(weights.values()) for w in weights.values())]
    shards: list[Shard] = []
    last = 0
    for painter, bound in zip([*weights, BASE], [*bounds, settings.pairs], strict=True):
        for start in range(last, bound, settings.shard_rows):
            shards.append(Shard(len(shards), start, min(start + settings.shard_rows, bound), painter))
        last = bound
    return shards


def row_specs(shard: Shard, settings: PreferencesSettings) -> list[RowSpec]:
    """The rows of a shard. Exploits are spread evenly over the drawn rows."""
    share = settings.corrupted_fraction / (1 - settings.generated_fraction) if settings.generated_fraction < 1 else 0.0
    tasks = []
    for index in range(shard.start, shard.stop):
        exploit = int((index + 1) * share + 1e-9) > int(index * share + 1e-9)
        kind = "generated" if shard.generator == BASE else "exploit" if exploit else "perturbed"
        tasks.append(RowSpec(index, kind, _row_seed(settings.seed, index)))
    return tasks


class Folder:
    """The folder of one build on a file system that all nodes see."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        """Raises ValueError if the folder holds a build made with other settings."""
        self.path, self.fingerprint = path, fingerprint
        for file in (self.manifest_path, *sorted(self._reports.glob("*.json"))):
            if file.exists() and (found := json.loads(file.read_text())["fingerprint"]) != fingerprint:
                raise ValueError(
                    f"{path} must hold preferences of these settings ({fingerprint}), but {file.name} was made with "
                    f"others ({found}): delete the folder or choose another run_dir"
                )

    @property
    def manifest_path(self) -> Path:
        return self.path / "_manifest.json"  # Arrow passes over names that begin with "_"

    @property
    def _reports(self) -> Path:
        return self.path / ".shards"

    def manifest(self) -> dict[str, Any] | None:
        """The manifest of a complete build, else None. Shards whose files are not as it says count as unfinished."""
        if not self.manifest_path.exists():
            return None
        manifest = json.loads(self.manifest_path.read_text())
        spoiled = [file["name"] for file in manifest["files"] if _digest(self.path / file["name"]) != file["sha256"]]
        for name in spoiled:
            self._report(Path(name).stem.partition("-")[2]).unlink(missing_ok=True)
        return None if spoiled else manifest

    def finished(self, shard: Shard) -> bool:
        """Whether all rows of a shard are on disk."""
        return self._report(f"{shard.index:05d}").exists()

    def write(self, shard: Shard, table: pa.Table, rejected: int, dropped: Sequence[Dropped]) -> None:
        """Writes a shard's rows, by split, and then the report that makes it count."""
        self._write_splits(f"{shard.index:05d}", table)
        ends = [{"pair_id": pair_id(row.task.index), **vars(row)} for row in dropped]
        for end in ends:
            del end["task"], end["final"]
        report = {"fingerprint": self.fingerprint, "rows": len(table), "rejected": rejected, "dropped": ends}
        write_file(str(self._report(f"{shard.index:05d}")), json.dumps(report).encode())

    def index(self) -> pa.Table:
        """All rows without their pictures, in the order of their ids, and a column `shard`.

        A pair that a killed `assign` left in two files is there twice.
        """
        parts = []
        for path in sorted(self.path.glob("*.parquet")):
            rows = pq.ParquetFile(path).read(columns=INDEX)
            parts.append(rows.append_column("shard", pa.array([path.stem.partition("-")[2]] * len(rows))))
        return pa.concat_tables(parts).sort_by("pair_id")

    def assign(self, shard: str, splits: Mapping[str, str]) -> None:
        """Leaves of a shard's rows those in `splits` (pair id -> split), each in the file of its split."""
        paths = sorted(self.path.glob(f"*-{shard}.parquet"))
        table = pa.concat_tables(pq.read_table(path) for path in paths)
        rows = {pair: row for row, pair in enumerate(table["pair_id"].to_pylist())}
        kept = sorted(pair for pair in rows if pair in splits)
        table = table.take([rows[pair] for pair in kept])
        column = pa.array([splits[pair] for pair in kept], pa.string())
        self._write_splits(shard, table.set_column(table.schema.get_field_index("split"), "split", column))

    def close(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Counts what became of all rows and writes the manifest; `manifest` tells how it was made."""
        reports = [json.loads(path.read_text()) for path in sorted(self._reports.glob("*.json"))]
        ends = [f"{end['role']}: {end['reason']}" for report in reports for end in report["dropped"]]
        names = sorted(path.name for path in self.path.glob("*.parquet"))
        rows = pa.concat_tables(
            pq.read_table(self.path / name, columns=["split", "kind", "n_perturb", "group_id", "generator"])
            for name in names
        )
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "fingerprint": self.fingerprint,
            "pairs": len(rows),
            "groups": len(rows["group_id"].unique()),
            "by_split": _counts(rows, "split"),
            "by_kind": _counts(rows, "kind"),
            "by_n_perturb": _counts(rows, "n_perturb"),
            "by_generator": _counts(rows, "generator"),
            "rejected": sum(report["rejected"] for report in reports),
            "dropped": dict(sorted(Counter(ends).items())),
            **manifest,
            "files": [{"name": name, "sha256": _digest(self.path / name)} for name in names],
        }
        write_file(str(self.manifest_path), json.dumps(manifest, indent=2).encode())
        return manifest

    def _report(self, shard: str) -> Path:
        return self._reports / f"{shard}.json"

    def _write_splits(self, shard: str, table: pa.Table) -> None:
        """First what is new in a file, then what is gone from one: killed between the two, no row is lost."""
        for split in reversed(SPLITS):
            path, rows = self.path / f"{split}-{shard}.parquet", table.filter(pc.field("split") == split)
            if len(rows):
                self._write_table(path, rows)
            else:
                path.unlink(missing_ok=True)

    def _write_table(self, path: Path, table: pa.Table) -> None:
        buffer = io.BytesIO()
        pq.write_table(
            table, buffer, compression="zstd", row_group_size=max(1, ROW_GROUP_BYTES * len(table) // table.nbytes)
        )
        write_file(str(path), buffer.getvalue())


def fingerprint_of(parts: Sequence[object]) -> str:
    """A short digest of everything that decides what the rows are."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True, default=asdict).encode(), digest_size=8).hexdigest()


def _row_seed(seed: int, index: int) -> int:
    draw = hashlib.blake2b(f"{seed}|{pair_id(index)}".encode(), digest_size=8).digest()
    return int.from_bytes(draw) >> 2  # fits a signed 64-bit column


def _counts(rows: pa.Table, column: str) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(rows[column].to_pylist()).items())}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "absent"

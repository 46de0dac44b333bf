"""The folder of a build: what its shards are, which are finished, and the manifest that says all of them are.

    <run_dir>/preferences/{train,test}-00003.parquet    rows of shard 3
    <run_dir>/preferences/.shards/00003.json            written after them: shard 3 is complete
    <run_dir>/preferences/_manifest.json                written last: the build is complete

A shard is a pure function of the settings, so a build that was killed goes on with the shards that are missing.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from actors.storage import write_file
from conf.preferences import PreferencesSettings
from pipelines.preferences.picture import hamming
from pipelines.preferences.roles import Task
from pipelines.preferences.schema import SCHEMA_VERSION, pair_id

SPLITS = ("train", "test")
NEAR_DUPLICATE_BITS = 4  # largest difference of perceptual hashes, on both sides of a pair


@dataclass(frozen=True)
class Shard:
    """Rows [start, stop) of a build, all drawn or all generated."""

    index: int
    start: int
    stop: int
    generated: bool


def plan_shards(settings: PreferencesSettings) -> list[Shard]:
    """Cuts a build into shards of `shard_rows`: drawn rows first, then the generated ones."""
    drawn = settings.pairs - round(settings.pairs * settings.generated_fraction)
    shards: list[Shard] = []
    for first, last, generated in ((0, drawn, False), (drawn, settings.pairs, True)):
        for start in range(first, last, settings.shard_rows):
            shards.append(Shard(len(shards), start, min(start + settings.shard_rows, last), generated))
    return shards


def tasks_of(shard: Shard, settings: PreferencesSettings) -> list[Task]:
    """The rows of a shard. Exploits are spread evenly over the drawn rows."""
    share = settings.exploit_fraction / (1 - settings.generated_fraction) if settings.generated_fraction < 1 else 0.0
    tasks = []
    for index in range(shard.start, shard.stop):
        exploit = int((index + 1) * share + 1e-9) > int(index * share + 1e-9)
        kind = "generated" if shard.generated else "exploit" if exploit else "perturbed"
        tasks.append(Task(index, kind, _row_seed(settings.seed, index)))
    return tasks


def split_of(group_id: str, test_fraction: float) -> str:
    """`train` or `test`, by the group alone."""
    draw = int.from_bytes(hashlib.blake2b(f"split|{group_id}".encode(), digest_size=4).digest())
    return "test" if draw < test_fraction * 2**32 else "train"


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
            (self._reports / f"{Path(name).stem.partition('-')[2]}.json").unlink(missing_ok=True)
        return None if spoiled else manifest

    def finished(self, shard: Shard) -> bool:
        """Whether all rows of a shard are on disk."""
        return (self._reports / f"{shard.index:05d}.json").exists()

    def write(self, shard: Shard, table: pa.Table, rejected: int) -> None:
        """Writes a shard's rows, by split, and then the report that makes it count."""
        for split in SPLITS:
            rows = table.filter(pc.field("split") == split)
            if len(rows):
                self._write_table(self.path / f"{split}-{shard.index:05d}.parquet", rows)
        report = {"fingerprint": self.fingerprint, "rows": len(table), "rejected": rejected}
        write_file(str(self._reports / f"{shard.index:05d}.json"), json.dumps(report).encode())

    def close(self, build: dict[str, Any]) -> dict[str, Any]:
        """Drops near-duplicates, counts what is left and writes the manifest; `build` tells how it was made."""
        duplicates = self._drop_near_duplicates()
        reports = [json.loads(path.read_text()) for path in sorted(self._reports.glob("*.json"))]
        names = sorted(path.name for path in self.path.glob("*.parquet"))
        rows = pa.concat_tables(
            pq.read_table(self.path / name, columns=["split", "kind", "n_perturb", "group_id"]) for name in names
        ).to_pylist()
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "fingerprint": self.fingerprint,
            "pairs": len(rows),
            "groups": len({row["group_id"] for row in rows}),
            "by_split": dict(Counter(row["split"] for row in rows)),
            "by_kind": dict(Counter(row["kind"] for row in rows)),
            "by_n_perturb": {str(n): c for n, c in sorted(Counter(row["n_perturb"] for row in rows).items())},
            "rejected": sum(report["rejected"] for report in reports),
            "near_duplicates_dropped": duplicates,
            **build,
            "files": [{"name": name, "sha256": _digest(self.path / name)} for name in names],
        }
        write_file(str(self.manifest_path), json.dumps(manifest, indent=2).encode())
        return manifest

    def _drop_near_duplicates(self) -> int:
        """Keeps the first of pairs with the same two sentences and alike pictures. Doing it again changes nothing."""
        kept: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
        dropped: dict[str, set[str]] = {}
        columns = ["pair_id", "kind", "prompt", "perturbed_prompt", "image_w", "image_l"]
        for path in sorted(self.path.glob("*.parquet"), key=lambda path: path.stem.partition("-")[2]):
            for row in pq.read_table(path, columns=columns).to_pylist():
                looks = (row["image_w"]["phash"], row["image_l"]["phash"])
                alike = kept.setdefault((row["kind"], row["prompt"], row["perturbed_prompt"]), [])
                if any(max(map(hamming, looks, other)) <= NEAR_DUPLICATE_BITS for other in alike):
                    dropped.setdefault(path.name, set()).add(row["pair_id"])
                else:
                    alike.append(looks)
        for name, ids in dropped.items():
            table = pq.read_table(self.path / name)
            keep = [pair not in ids for pair in table["pair_id"].to_pylist()]
            self._write_table(self.path / name, table.filter(pa.array(keep)))
        return sum(map(len, dropped.values()))

    def _write_table(self, path: Path, table: pa.Table) -> None:
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        write_file(str(path), buffer.getvalue())


def fingerprint_of(parts: Sequence[object]) -> str:
    """A short digest of everything that decides what the rows are."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True, default=asdict).encode(), digest_size=8).hexdigest()


def _row_seed(seed: int, index: int) -> int:
    draw = hashlib.blake2b(f"{seed}|{pair_id(index)}".encode(), digest_size=8).digest()
    return int.from_bytes(draw) >> 2  # fits a signed 64-bit column


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "absent"

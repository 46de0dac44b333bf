"""`spatialt2i preferences publish`: a versioned dataset folder that stands for itself.

    <out>/<version>/README.md                          the card
    <out>/<version>/data/train-00000.parquet           rows of PUBLISHED_SCHEMA
    <out>/<version>/pickapic/, hpdv3/                  the same pairs in the forms of Pick-a-Pic v2 and HPDv3
    <out>/<version>/SHA256SUMS                         of every file above: `sha256sum -c SHA256SUMS`

A version is written under a temporary name and renamed when it is whole; one that is there is never touched.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from conf.review import PublishSettings
from conf.settings import Settings
from pipelines.common.paths import DATA
from pipelines.preferences.dataset.card import render_card
from pipelines.preferences.dataset.export import export_hpdv3, export_pickapic
from pipelines.preferences.dataset.published import PUBLISHED_SCHEMA, published_row
from pipelines.preferences.dataset.statistics import Statistics
from pipelines.preferences.dataset.verify import CHECKSUMS
from pipelines.preferences.review.overview import Overview, summarise
from pipelines.preferences.review.pairs import PairSet, pairs_folder
from pipelines.preferences.review.results import reviewed
from pipelines.preferences.review.serve import open_database, open_store, review_database
from pipelines.preferences.roles.base import Review

ROW_GROUP = 16  # rows: readers fetch so many pairs of pictures at once


@dataclass(frozen=True)
class Published:
    """A version that is there."""

    folder: Path
    pairs: int
    left_out: Mapping[str, int]  # why -> pairs

    def __str__(self) -> str:
        out = "".join(f", {count} {why} left out" for why, count in sorted(self.left_out.items()))
        return f"{self.pairs} pairs in {self.folder}{out}"


def publish(settings: Settings) -> Published:
    """Writes the run's pairs, with what people said of them, as a version of the dataset.

    Raises FileExistsError if the version is there, FileNotFoundError without pairs, ValueError if none may go out.
    """
    own = settings.publish
    out = Path(own.out or f"{settings.run_dir}/published").absolute()
    folder, partial = out / own.version, out / f".{own.version}.partial"
    if folder.exists():
        raise FileExistsError(f"{folder} is published: raise publish.version, or delete the folder")
    shutil.rmtree(partial, ignore_errors=True)
    source = pairs_folder(settings)
    reviews, overview = review_of(settings)
    writer = _Writer(partial / DATA, own)
    for row in rows_of(source):
        writer.take(row, reviews.get(row["pair_id"]))
    writer.close()
    if not writer.kept.pairs:
        raise ValueError(f"no pair of {source} may be published, left out: {dict(writer.left_out)}")
    if own.exports:
        for split in writer.kept.splits:
            print(f"publish  exporting {split}", flush=True)
            export_pickapic(partial / DATA, split, partial / "pickapic")
            export_hpdv3(partial / DATA, split, partial / "hpdv3")
    (partial / "README.md").write_text(render_card(own, writer.kept, overview, writer.left_out))
    _write_checksums(partial)
    partial.rename(folder)
    return Published(folder, writer.kept.pairs, writer.left_out)


def review_of(settings: Settings) -> tuple[dict[str, Review], Overview | None]:
    """What people decided on the run's pairs: nothing, and None, where nobody was asked."""
    if not review_database(settings).exists():
        return {}, None
    database = open_database(settings)
    store = open_store(settings, database)
    votes, statuses = store.votes(), store.statuses()
    database.close()
    return reviewed(PairSet(pairs_folder(settings)), votes, statuses), summarise(votes, statuses, {})


def rows_of(folder: Path) -> Iterator[dict[str, Any]]:
    """All rows of a folder of pairs, a few in memory at a time."""
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise FileNotFoundError(f"no pairs in {folder}: run `spatialt2i preferences` first")
    for path in files:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=ROW_GROUP):
            yield from batch.to_pylist()


@dataclass
class _Writer:
    """Sorts rows into files by split, and counts them."""

    folder: Path
    settings: PublishSettings
    kept: Statistics = field(default_factory=Statistics)
    left_out: dict[str, int] = field(default_factory=dict)
    _waiting: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _files: dict[str, tuple[pq.ParquetWriter, int]] = field(default_factory=dict)  # split -> (file, rows in it)
    _numbers: dict[str, int] = field(default_factory=dict)  # split -> files begun

    def take(self, row: Mapping[str, Any], review: Review | None) -> None:
        """One more row, unless its review forbids it."""
        status = review.status if review else row["review"]["status"]
        known = review is not None or row["review"]["gold"]
        why = status if status in ("rejected", "disputed") else ""
        if self.settings.only_reviewed and not (known and status == "accepted"):
            why = why or "not reviewed"
        if why:
            self.left_out[why] = self.left_out.get(why, 0) + 1
            return
        made = published_row(row, review)
        self.kept.add(made)
        waiting = self._waiting.setdefault(row["split"], [])
        waiting.append(made)
        written = self._files[row["split"]][1] if row["split"] in self._files else 0
        if len(waiting) == min(ROW_GROUP, self.settings.shard_rows - written):
            self._flush(row["split"])
        if self.kept.pairs % 1000 == 0:
            print(f"publish  {self.kept.pairs} pairs", flush=True)

    def close(self) -> None:
        """Writes what is left."""
        for split in list(self._waiting):
            self._flush(split)
        for file, _ in self._files.values():
            file.close()

    def _flush(self, split: str) -> None:
        rows = self._waiting.pop(split)
        file, written = self._files.pop(split, (None, 0))
        if file is None:
            number = self._numbers[split] = self._numbers.get(split, -1) + 1
            self.folder.mkdir(parents=True, exist_ok=True)
            file = pq.ParquetWriter(self.folder / f"{split}-{number:05d}.parquet", PUBLISHED_SCHEMA, compression="zstd")
        file.write_table(pa.Table.from_pylist(rows, schema=PUBLISHED_SCHEMA))
        written += len(rows)
        if written >= self.settings.shard_rows:
            file.close()
        else:
            self._files[split] = file, written


def _write_checksums(folder: Path) -> None:
    lines = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(folder)}\n")
    (folder / CHECKSUMS).write_text("".join(lines))

"""`spatialt2i preferences publish`: a versioned dataset folder that is complete in itself.

    <out>/<version>/README.md                          the dataset card
    <out>/<version>/data/train-00000.parquet           rows of PUBLISHED_SCHEMA
    <out>/<version>/pickapic/, hpdv3/                  the same pairs in the formats of Pick-a-Pic v2 and HPDv3
    <out>/<version>/SHA256SUMS                         of every file above: `sha256sum -c SHA256SUMS`

A version is written under a temporary name and renamed when it is complete. An existing version is never changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from actors.folders import create_folder
from conf import UserError
from conf.review import PublishSettings
from conf.settings import Settings
from pipelines.common.fingerprints import digest_of_file
from pipelines.common.paths import PUBLISHED_DATA, run_paths
from pipelines.preferences.dataset.card import render_card
from pipelines.preferences.dataset.export import export_hpdv3, export_pickapic
from pipelines.preferences.dataset.split_writer import ROW_GROUP, SplitWriter
from pipelines.preferences.dataset.statistics import Statistics
from pipelines.preferences.dataset.verify import CHECKSUMS
from pipelines.preferences.review.overview import Overview, summarise
from pipelines.preferences.review.pairs import PairSet, pair_files
from pipelines.preferences.review.results import review_results
from pipelines.preferences.review.serve import open_database, open_store
from pipelines.preferences.roles.base import Review


@dataclass(frozen=True)
class PublishedVersion:
    """A published version."""

    folder: Path
    pairs: int
    left_out: Mapping[str, int]  # reason -> pairs

    def __str__(self) -> str:
        left_out = "".join(f", {count} {reason} left out" for reason, count in sorted(self.left_out.items()))
        return f"{self.pairs} pairs in {self.folder}{left_out}"


def publish(settings: Settings) -> PublishedVersion:
    """Writes the pairs of the run, with the reviews of the annotators, as a version of the dataset.

    Raises UserError if the version exists already, or if there are no pairs that may be published.
    """
    cfg = settings.publish
    root = Path(cfg.out).absolute() if cfg.out else run_paths(settings).published
    folder = root / cfg.version
    if folder.exists():
        raise UserError(f"{folder} is published already: raise publish.version, or delete the folder")
    pair_files(run_paths(settings).preferences)  # raises before anything is written
    published = Statistics()
    left_out: dict[str, int] = {}

    def write(partial: Path) -> None:
        reviews, overview = read_reviews(settings)
        _write_rows(partial / PUBLISHED_DATA, run_paths(settings).preferences, reviews, cfg, published, left_out)
        if cfg.exports:
            for split in published.splits:
                print(f"publish  exporting {split}", flush=True)
                export_pickapic(partial / PUBLISHED_DATA, split, partial / "pickapic")
                export_hpdv3(partial / PUBLISHED_DATA, split, partial / "hpdv3")
        (partial / "README.md").write_text(render_card(cfg, published, overview, left_out))
        _write_checksums(partial)

    create_folder(folder, write)
    return PublishedVersion(folder, published.pairs, left_out)


def read_reviews(settings: Settings) -> tuple[dict[str, Review], Overview | None]:
    """The annotators' reviews of the run's pairs, pair id -> review, and their overview.

    Empty and None if no review was started.
    """
    if not run_paths(settings).review_database.exists():
        return {}, None
    database = open_database(settings)
    store = open_store(settings, database)
    votes, statuses = store.votes(), store.statuses()
    database.close()
    results = review_results(PairSet(run_paths(settings).preferences), votes, statuses)
    return results, summarise(votes, statuses, gold={})


def read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """All rows of a folder of pairs, a few in memory at a time. Raises UserError if there are none."""
    for path in pair_files(folder):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=ROW_GROUP):
            yield from batch.to_pylist()


def _write_rows(
    target: Path,
    source: Path,
    reviews: Mapping[str, Review],
    settings: PublishSettings,
    published: Statistics,
    left_out: dict[str, int],
) -> None:
    """Writes the rows that may be published and counts them in `published`, the others in `left_out`."""
    writer = SplitWriter(target, settings.shard_rows)
    for row in read_rows(source):
        review = reviews.get(row["pair_id"])
        reason = _reason_to_leave_out(row, review, settings.only_reviewed)
        if reason:
            left_out[reason] = left_out.get(reason, 0) + 1
            continue
        published.add(writer.write(row, review), annotated=review is not None)
        if published.pairs % 1000 == 0:
            print(f"publish  {published.pairs} pairs", flush=True)
    writer.close()
    if not published.pairs:
        raise UserError(f"no pair of {source} may be published, left out: {left_out}: review the pairs first")


def _reason_to_leave_out(row: Mapping[str, Any], review: Review | None, only_reviewed: bool) -> str:
    """Why a row must not be published; "" if it may be."""
    status = review.status if review else row["review"]["status"]
    if status in ("rejected", "disputed"):
        return status
    known = review is not None or row["review"]["gold"]
    return "not reviewed" if only_reviewed and not (known and status == "accepted") else ""


def _write_checksums(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{digest_of_file(path)}  {path.relative_to(folder)}\n" for path in files]
    (folder / CHECKSUMS).write_text("".join(lines))

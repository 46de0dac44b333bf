"""`spatialt2i preferences publish`: a versioned dataset folder that is complete in itself.

    <out>/<version>/README.md                          the dataset card
    <out>/<version>/data/train-00000.parquet           rows of PUBLISHED_SCHEMA
    <out>/<version>/pickapic/, hpdv3/                  the same pairs in the formats of Pick-a-Pic v2 and HPDv3
    <out>/<version>/SHA256SUMS                         of every file above: `sha256sum -c SHA256SUMS`

A version is written under a temporary name and renamed when it is complete. An existing version is never changed. If
`publish.out` is a URI, the version is written in the run directory and then copied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from actors.files import join
from actors.folders import create_folder
from conf import UserError
from conf.review import PublishSettings
from conf.settings import Settings
from pipelines.common.fingerprints import digest_of_file
from pipelines.common.paths import PUBLISHED_DATA, run_paths
from pipelines.preferences.dataset.card import render_card
from pipelines.preferences.dataset.export import export_hpdv3, export_pickapic
from pipelines.preferences.dataset.licences import notes_on_generators, notes_on_services
from pipelines.preferences.dataset.reviews import DatasetReviews, read_reviews
from pipelines.preferences.dataset.source_rows import read_columns, read_shuffled
from pipelines.preferences.dataset.split_writer import SplitWriter
from pipelines.preferences.dataset.splits import BENCHMARK, Member, choose_benchmark
from pipelines.preferences.dataset.statistics import Statistics
from pipelines.preferences.dataset.upload import is_uri, require_free, upload
from pipelines.preferences.dataset.verify import CHECKSUMS
from pipelines.preferences.review.pairs import pair_files
from pipelines.preferences.roles.base import Review


@dataclass(frozen=True)
class PublishedVersion:
    """A published version."""

    folder: Path
    pairs: int
    left_out: Mapping[str, int]  # reason -> pairs
    address: str = ""  # where it was uploaded, too; "" if it was not

    def __str__(self) -> str:
        left_out = "".join(f", {count} {reason} left out" for reason, count in sorted(self.left_out.items()))
        return f"{self.pairs} pairs in {self.folder}{left_out}{f', uploaded to {self.address}' if self.address else ''}"


@dataclass(frozen=True)
class Selection:
    """The rows that are published."""

    benchmark: set[str]  # ids of the pairs that move to the split benchmark
    left_out: Mapping[str, str]  # pair id -> reason
    left_out_counts: Mapping[str, int]  # reason -> pairs


def publish(settings: Settings) -> PublishedVersion:
    """Writes the accepted pairs of the run, with the reviews of the annotators, as a version of the dataset.

    A version that exists already is only copied to `publish.out`, if that is a URI. Raises UserError if it exists
    otherwise, if there are no pairs that may be published, or if the accepted pairs of the split test cannot fill the
    benchmark.
    """
    cfg = settings.publish
    local = cfg.out and not is_uri(cfg.out)
    folder = (Path(cfg.out).absolute() if local else run_paths(settings).published) / cfg.version
    if folder.exists() and is_uri(cfg.out):
        return PublishedVersion(folder, _count_pairs(folder), {}, _upload(folder, cfg))
    if is_uri(cfg.out):
        require_free(join(cfg.out, cfg.version))
    if folder.exists():
        raise UserError(f"{folder} is published already: raise publish.version, or delete the folder")
    source = run_paths(settings).preferences
    pair_files(source)  # raises before anything is written
    reviews = read_reviews(settings)
    selection = select(source, reviews, cfg)
    published = Statistics()

    def write(partial: Path) -> None:
        data = partial / PUBLISHED_DATA
        _write_rows(data, source, reviews, selection, cfg, published)
        if cfg.exports:
            for split in published.voted_splits:
                print(f"publish  exporting {split}", flush=True)
                export_pickapic(data, split, partial / "pickapic")
                export_hpdv3(data, split, partial / "hpdv3")
        notes = dict.fromkeys((*notes_on_services(settings), *notes_on_generators(published.generators)))
        card = render_card(cfg, published, reviews.anonymous_overview, selection.left_out_counts, tuple(notes))
        (partial / "README.md").write_text(card)
        _write_checksums(partial)

    create_folder(folder, write)
    return PublishedVersion(folder, published.pairs, selection.left_out_counts, _upload(folder, cfg))


def _upload(folder: Path, cfg: PublishSettings) -> str:
    """Copies a version to `publish.out` if that is a URI, and says where; "" otherwise."""
    return upload(folder, join(cfg.out, cfg.version)) if is_uri(cfg.out) else ""


def select(source: Path, reviews: DatasetReviews, cfg: PublishSettings) -> Selection:
    """Decides which rows of a build are published, and draws the benchmark from the accepted ones of the split test.

    Raises UserError if none may be published, or if the benchmark lacks pairs.
    """
    rows = read_columns(source, ["pair_id", "group_id", "split", "n_perturb", "review"])
    left_out = {row["pair_id"]: _reason_to_leave_out(reviews.of(row), cfg.unreviewed) for row in rows}
    left_out = {pair_id: reason for pair_id, reason in left_out.items() if reason}
    counts = dict(Counter(left_out.values()))
    if len(left_out) == len(rows):
        raise UserError(
            f"no pair of {source} may be published, left out: {counts}: review the pairs first with `spatialt2i "
            "preferences review`"
        )
    members = [
        Member(row["pair_id"], row["group_id"], row["n_perturb"])
        for row in rows
        if row["split"] == "test" and reviews.of(row)["status"] == "accepted"
    ]
    benchmark = choose_benchmark(members, cfg.benchmark_single_edit, cfg.benchmark_multi_edit)
    return Selection(benchmark, left_out, counts)


def _count_pairs(folder: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in (folder / PUBLISHED_DATA).glob("*.parquet"))


def _write_rows(
    target: Path,
    source: Path,
    reviews: DatasetReviews,
    selection: Selection,
    settings: PublishSettings,
    published: Statistics,
) -> None:
    """Writes the rows in random order, and counts them in `published`."""
    with closing(SplitWriter(target, settings.shard_rows)) as writer:
        for row in read_shuffled(source, settings.version):
            if row["pair_id"] in selection.left_out:
                continue
            split = BENCHMARK if row["pair_id"] in selection.benchmark else row["split"]
            review: Review | None = reviews.by_pair.get(row["pair_id"])
            published.add(writer.write({**row, "split": split}, review), annotated=review is not None)
            if published.pairs % 1000 == 0:
                print(f"publish  {published.pairs} pairs", flush=True)


def _reason_to_leave_out(review: Mapping[str, Any], unreviewed: bool) -> str:
    """Why a row must not be published; "" if it may be."""
    status = review["status"]
    if status == "pending":
        return "" if unreviewed else "not reviewed"
    return "" if status == "accepted" else status


def _write_checksums(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{digest_of_file(path)}  {path.relative_to(folder)}\n" for path in files]
    (folder / CHECKSUMS).write_text("".join(lines))

"""The end of a build, when all shards exist: drop near-duplicates, draw the benchmark, write the manifest.

Every decision depends on all rows in their order, so a repetition after a kill gives the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from conf.preferences import PreferencesSettings
from pipelines.preferences.checks.duplicates import near_duplicate_images, near_duplicate_prompts
from pipelines.preferences.dataset.build_folder import BuildFolder
from pipelines.preferences.dataset.splits import Member, choose_benchmark, split_of


def finalize(folder: BuildFolder, settings: PreferencesSettings, build: dict[str, Any]) -> dict[str, Any]:
    """Returns the manifest, with the entries of `build` added. Raises UserError if the benchmark lacks pairs."""
    files = folder.read_index()
    ids = files["pair_id"].to_pylist()
    rows = _without(files, [i for i in range(1, len(ids)) if ids[i] == ids[i - 1]])
    total = len(rows)
    if settings.near_duplicate_words:
        rows = _without(rows, near_duplicate_prompts(rows["prompt"].to_pylist(), settings.near_duplicate_words))
    prompts = total - len(rows)
    winners, losers = ([image["phash"] for image in rows[side].to_pylist()] for side in ("image_w", "image_l"))
    rows = _without(rows, near_duplicate_images(list(zip(winners, losers, strict=True))))
    splits = _splits(rows, settings)
    for shard in _changed_shards(files, splits):
        folder.assign_splits(shard, splits)
    dropped = {"near_duplicate_prompts": prompts, "near_duplicate_images": total - prompts - len(rows)}
    return folder.write_manifest(dropped | build)


def _without(rows: pa.Table, numbers: Sequence[int]) -> pa.Table:
    """The rows without those numbers."""
    dropped = set(numbers)
    return rows.filter(pa.array([i not in dropped for i in range(len(rows))]))


def _splits(rows: pa.Table, settings: PreferencesSettings) -> dict[str, str]:
    """Pair id -> split."""
    ids, groups, edits = (rows[name].to_pylist() for name in ("pair_id", "group_id", "n_perturb"))
    splits = {pair: split_of(group, settings.test_fraction) for pair, group in zip(ids, groups, strict=True)}
    members = [Member(*columns) for columns in zip(ids, groups, edits, strict=True) if splits[columns[0]] == "test"]
    benchmark = choose_benchmark(members, settings.benchmark_single_edit, settings.benchmark_multi_edit)
    return splits | dict.fromkeys(benchmark, "benchmark")


def _changed_shards(rows: pa.Table, splits: dict[str, str]) -> list[str]:
    """Shards with a row that is dropped or is in the file of another split."""
    columns = (rows[name].to_pylist() for name in ("pair_id", "split", "shard"))
    return sorted({shard for pair, split, shard in zip(*columns, strict=True) if splits.get(pair) != split})

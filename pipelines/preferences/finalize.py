"""The end of a build, once all shards are there: near-duplicates go, the benchmark is drawn, the manifest is written.

Done again after it was killed, it comes to the same: every decision follows from all rows together, in their order.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from conf.preferences import PreferencesSettings
from pipelines.preferences.checks.duplicates import near_duplicate_images, near_duplicate_prompts
from pipelines.preferences.dataset.shards import Folder
from pipelines.preferences.dataset.splits import Member, choose_benchmark, split_of


def finish(folder: Folder, settings: PreferencesSettings, told: dict[str, Any]) -> dict[str, Any]:
    """Returns the manifest; `told` is added to it. Raises ValueError if there are too few pairs for the benchmark."""
    files = folder.index()
    ids = files["pair_id"].to_pylist()
    rows = _without(files, [i for i in range(1, len(ids)) if ids[i] == ids[i - 1]])
    total = len(rows)
    if settings.near_duplicate_words:
        rows = _without(rows, near_duplicate_prompts(rows["prompt"].to_pylist(), settings.near_duplicate_words))
    prompts = total - len(rows)
    winners, losers = ([image["phash"] for image in rows[side].to_pylist()] for side in ("image_w", "image_l"))
    rows = _without(rows, near_duplicate_images(list(zip(winners, losers, strict=True))))
    splits = _splits(rows, settings)
    for shard in _changed(files, splits):
        folder.assign(shard, splits)
    dropped = {"near_duplicate_prompts": prompts, "near_duplicate_pictures": total - prompts - len(rows)}
    return folder.close(dropped | told)


def _without(rows: pa.Table, numbers: list[int]) -> pa.Table:
    gone = set(numbers)
    return rows.filter(pa.array([i not in gone for i in range(len(rows))]))


def _splits(rows: pa.Table, settings: PreferencesSettings) -> dict[str, str]:
    """Pair id -> split."""
    ids, groups, changes = (rows[name].to_pylist() for name in ("pair_id", "group_id", "n_perturb"))
    splits = {pair: split_of(group, settings.test_fraction) for pair, group in zip(ids, groups, strict=True)}
    members = [Member(*parts) for parts in zip(ids, groups, changes, strict=True) if splits[parts[0]] == "test"]
    benchmark = choose_benchmark(members, settings.benchmark_single_edit, settings.benchmark_multi_edit)
    return splits | dict.fromkeys(benchmark, "benchmark")


def _changed(rows: pa.Table, splits: dict[str, str]) -> list[str]:
    """Shards that hold a row which is dropped or belongs to another split than its file's."""
    columns = (rows[name].to_pylist() for name in ("pair_id", "split", "shard"))
    return sorted({shard for pair, split, shard in zip(*columns, strict=True) if splits.get(pair) != split})

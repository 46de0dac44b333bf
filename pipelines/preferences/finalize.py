"""The end of a build, when all shards exist: put near-duplicates aside, split the others, write the manifest.

Every decision depends on all rows in their order, and rows are only moved between files. So a repetition, after a kill
or with other settings of this step, gives the same result as a build that ended with these settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from conf.preferences import PreferencesSettings
from pipelines.preferences.checks.duplicates import near_duplicate_images, near_duplicate_prompts
from pipelines.preferences.dataset.build_folder import BuildFolder
from pipelines.preferences.dataset.splits import DUPLICATE, split_of

FINAL_SETTINGS = ("test_fraction", "near_duplicate_words")
"""Settings of section preferences that only this step reads. They can change in a complete build."""


def final_settings(settings: PreferencesSettings) -> dict[str, object]:
    """The settings of this step, as the manifest records them."""
    return {name: getattr(settings, name) for name in FINAL_SETTINGS}


def finalize(folder: BuildFolder, settings: PreferencesSettings, build: dict[str, Any]) -> dict[str, Any]:
    """Returns the manifest, with the entries of `build` added."""
    files = folder.read_index()
    ids = files["pair_id"].to_pylist()
    rows = _without(files, [i for i in range(1, len(ids)) if ids[i] == ids[i - 1]])
    total = len(rows)
    if settings.near_duplicate_words:
        rows = _without(rows, near_duplicate_prompts(rows["prompt"].to_pylist(), settings.near_duplicate_words))
    prompts = total - len(rows)
    winners, losers = ([image["phash"] for image in rows[side].to_pylist()] for side in ("image_w", "image_l"))
    rows = _without(rows, near_duplicate_images(list(zip(winners, losers, strict=True))))
    splits = dict.fromkeys(ids, DUPLICATE) | _splits(rows, settings)
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
    ids, groups = (rows[name].to_pylist() for name in ("pair_id", "group_id"))
    return {pair: split_of(group, settings.test_fraction) for pair, group in zip(ids, groups, strict=True)}


def _changed_shards(rows: pa.Table, splits: dict[str, str]) -> list[str]:
    """Shards with a row that is in the file of another split."""
    columns = (rows[name].to_pylist() for name in ("pair_id", "split", "shard"))
    return sorted({shard for pair, split, shard in zip(*columns, strict=True) if splits.get(pair) != split})

"""Preference pairs of the scenes world, without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.preferences.dataset.schema import to_table
from pipelines.preferences.roles.base import ImagePair, PromptPair, RowSpec
from pipelines.preferences.roles.scenes import SceneGenerator, ScenePerturber, SceneReviewer, SceneWriter
from pipelines.preferences.row_values import PairKind


def scene_prompts(specs: Sequence[RowSpec], single_edit_fraction: float = 0.5) -> list[PromptPair]:
    """Written and perturbed prompts of the rows."""
    return ScenePerturber(single_edit_fraction).perturb(SceneWriter().write(specs))


def scene_pairs(specs: Sequence[RowSpec]) -> list[ImagePair]:
    """Rendered pairs of the rows."""
    return SceneGenerator().generate(scene_prompts(specs))


def write_scene_pairs(folder: Path, count: int, kind: PairKind = "perturbed", first: int = 0) -> None:
    """Writes rows `first` to `first + count - 1` as parquet: every fifth row to the split test, the others to train."""
    pairs = scene_pairs([RowSpec(i, kind, i) for i in range(first, first + count)])
    splits = ["test" if i % 5 == 0 else "train" for i in range(count)]
    table = to_table(pairs, SceneReviewer().review(pairs), splits, "test")
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        rows = table.filter([one == split for one in splits])
        pq.write_table(rows, folder / f"{split}-{first:05d}.parquet", row_group_size=4)

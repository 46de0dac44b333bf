"""Exports in the formats of Pick-a-Pic v2 and HPDv3."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from actors.images import decode_image
from conf import UserError, load
from pipelines.common.paths import RunPaths
from pipelines.preferences.dataset.build_folder import BuildFolder
from pipelines.preferences.dataset.export import export_hpdv3, export_pickapic
from pipelines.preferences.dataset.schema import to_table
from pipelines.preferences.dataset.shards import plan_shards
from pipelines.preferences.roles.base import RowSpec
from pipelines.preferences.roles.scenes import SceneReviewer
from tests.support.scene_pairs import scene_pairs


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parquet folder of twenty pairs."""
    paths = RunPaths(tmp_path_factory.mktemp("run"))
    pairs = scene_pairs([RowSpec(i, "perturbed", 5 + i) for i in range(20)])
    table = to_table(pairs, SceneReviewer().review(pairs), ["train"] * 20, "test")
    BuildFolder(paths, "x").write(plan_shards(load().preferences)[0], table, rejected=0, dropped=[])
    return paths.preferences


def test_pick_a_pic_rows_have_the_preferred_image_on_either_side(preferences: Path, tmp_path: Path) -> None:
    rows = pq.read_table(export_pickapic(preferences, "train", tmp_path)).to_pylist()
    source = {row["prompt"]: row for row in pq.read_table(preferences / "train-00000.parquet").to_pylist()}
    assert len(rows) == 20
    assert 0 < sum(row["label_0"] for row in rows) < 20, "the preferred image must not always come first"
    for row in rows:
        assert row["label_0"] + row["label_1"] == 1.0 and row["has_label"] and row["are_different"]
        best = 0 if row["label_0"] == 1.0 else 1
        winner = source[row["caption"]]["image_w"]
        assert row["best_image_uid"] == row[f"image_{best}_uid"] == winner["sha256"]
        assert Image.open(io.BytesIO(row[f"jpg_{best}"])).format == "JPEG"
        error = np.abs(decode_image(row[f"jpg_{best}"]).astype(int) - decode_image(winner["bytes"])).mean()
        assert error < 3, "the JPEG shows the winner"
        assert row["num_example_per_prompt"] >= 1


def test_hpdv3_entries_have_the_preferred_path_first(preferences: Path, tmp_path: Path) -> None:
    path = export_hpdv3(preferences, "train", tmp_path)
    entries = json.loads(path.read_text())
    source = {row["prompt"]: row for row in pq.read_table(preferences / "train-00000.parquet").to_pylist()}
    for entry in entries:
        row = source[entry["prompt"]]
        assert (path.parent / entry["path1"]).read_bytes() == row["image_w"]["bytes"]
        assert (path.parent / entry["path2"]).read_bytes() == row["image_l"]["bytes"]
        assert entry["choice_dist"] == [1, 0] and entry["confidence"] == 1.0 and entry["model1"] == row["generator"]
    assert len(entries) == 20


def test_an_empty_split_is_a_user_error(preferences: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pairs of split 'test'"):
        export_hpdv3(preferences, "test", tmp_path)


@pytest.mark.parametrize("export", [export_hpdv3, export_pickapic])
def test_an_image_that_cannot_be_read_is_a_user_error_that_names_the_pair(
    preferences: Path, tmp_path: Path, export: Callable[[Path, str, Path], Path]
) -> None:
    table = pq.read_table(preferences / "train-00000.parquet")
    rows = table.to_pylist()
    rows[7]["image_l"]["bytes"] = b"GIF89a"
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), tmp_path / "train-00000.parquet")
    with pytest.raises(UserError, match=f"pair {rows[7]['pair_id']} cannot be exported: the image is not a readable"):
        export(tmp_path, "train", tmp_path / "out")

"""Exports that other preference code reads."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from conf import load
from pipelines.common.images import decode
from pipelines.preferences.dataset.export import export_hpdv3, export_pickapic
from pipelines.preferences.dataset.schema import to_table
from pipelines.preferences.dataset.shards import Folder, plan_shards
from pipelines.preferences.roles.base import RowSpec
from pipelines.preferences.roles.scenes import SceneGenerator, ScenePerturber, SceneReviewer, SceneWriter


@pytest.fixture(scope="module")
def preferences(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("preferences")
    drafts = ScenePerturber().perturb(SceneWriter().write([RowSpec(i, "perturbed", 5 + i) for i in range(20)]))
    pairs = SceneGenerator().generate(drafts)
    table = to_table(pairs, SceneReviewer().review(pairs), ["train"] * 20, "test")
    Folder(directory, "x").write(plan_shards(load().preferences)[0], table, rejected=0, dropped=[])
    return directory


def test_pick_a_pic_rows_name_the_preferred_picture_on_either_side(preferences, tmp_path):
    rows = pq.read_table(export_pickapic(preferences, "train", tmp_path)).to_pylist()
    source = {row["prompt"]: row for row in pq.read_table(preferences / "train-00000.parquet").to_pylist()}
    assert len(rows) == 20
    assert 0 < sum(row["label_0"] for row in rows) < 20, "the preferred picture must not always come first"
    for row in rows:
        assert row["label_0"] + row["label_1"] == 1.0 and row["has_label"] and row["are_different"]
        best = 0 if row["label_0"] == 1.0 else 1
        winner = source[row["caption"]]["image_w"]
        assert row["best_image_uid"] == row[f"image_{best}_uid"] == winner["sha256"]
        assert Image.open(io.BytesIO(row[f"jpg_{best}"])).format == "JPEG"
        error = np.abs(decode(row[f"jpg_{best}"]).astype(int) - decode(winner["bytes"])).mean()
        assert error < 3, "the JPEG shows the winner"
        assert row["num_example_per_prompt"] >= 1


def test_hpdv3_entries_put_the_preferred_path_first(preferences, tmp_path):
    path = export_hpdv3(preferences, "train", tmp_path)
    entries = json.loads(path.read_text())
    source = {row["prompt"]: row for row in pq.read_table(preferences / "train-00000.parquet").to_pylist()}
    for entry in entries:
        row = source[entry["prompt"]]
        assert (path.parent / entry["path1"]).read_bytes() == row["image_w"]["bytes"]
        assert (path.parent / entry["path2"]).read_bytes() == row["image_l"]["bytes"]
        assert entry["choice_dist"] == [1, 0] and entry["confidence"] == 1.0 and entry["model1"] == row["generator"]
    assert len(entries) == 20


def test_an_empty_split_is_refused(preferences, tmp_path):
    with pytest.raises(ValueError, match="no pairs of split 'test'"):
        export_hpdv3(preferences, "test", tmp_path)

"""The images of the rows and their masters."""

from __future__ import annotations

import io
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from actors.images import decode_image
from conf import SettingsError, UserError, load
from pipelines.common.images import StoredImage
from pipelines.preferences.build import fingerprint
from pipelines.preferences.cost import campaign_cost
from pipelines.preferences.dataset.masters import master_location, read_master
from pipelines.preferences.dataset.schema import to_table
from pipelines.preferences.dataset.stored_images import ImageStorage, Keep, claim_masters
from pipelines.preferences.review.auth import Session
from pipelines.preferences.review.serve import open_database, open_queue, open_store
from pipelines.preferences.roles.base import PendingReviewer, PromptPair, RawImage, RawPair, RowSpec
from tests.support.scene_pairs import scene_prompts


@pytest.fixture(scope="module")
def raw() -> RawPair:
    """A pair of 96 x 160 pixels: smooth, as photographs are."""
    rows, columns = np.mgrid[0:96, 0:160]
    winner, loser = (
        np.stack([rows * 2, columns, (rows + columns * step) % 256], axis=2).astype(np.uint8) for step in (1, 2)
    )
    (prompt,) = scene_prompts([RowSpec(7, "perturbed", 3)])
    assert isinstance(prompt, PromptPair)
    return RawPair(prompt, RawImage(winner, "qwen_image", 3), RawImage(loser, "qwen_image", 3))


@pytest.mark.parametrize(("keep", "kind", "error"), [("png", "PNG", 0), ("jpeg95", "JPEG", 6), ("webp90", "WEBP", 20)])
def test_rows_keep_images_in_the_chosen_format(raw: RawPair, keep: Keep, kind: str, error: int) -> None:
    stored = ImageStorage(keep, 0, "").store(raw).winner
    assert Image.open(io.BytesIO(stored.content)).format == kind
    difference = np.abs(decode_image(stored.content).astype(int) - raw.winner.pixels)
    assert difference.mean() <= error and (keep == "png") == (difference.max() == 0)
    assert stored.phash == StoredImage.of(raw.winner.pixels, "", 0).phash, "the hash is that of the master"


def test_large_images_are_reduced_in_the_rows_and_kept_as_masters(raw: RawPair, tmp_path: Path) -> None:
    masters = f"file://{tmp_path}/masters"
    pair = ImageStorage("jpeg95", 80, masters).store(raw)
    assert decode_image(pair.loser.content).shape == (48, 80, 3)
    for side, image in (("w", raw.winner), ("l", raw.loser)):
        content = read_master(masters, "pair-00000007", side)  # type: ignore[arg-type]
        assert content and (decode_image(content) == image.pixels).all()
    assert (tmp_path / "masters" / "pair-00000" / "pair-00000007-w.png").exists()
    assert ImageStorage("png", 80, "").store(pair) is pair, "an image that is encoded already stays as it is"


def test_the_review_enlarges_the_master(raw: RawPair, tmp_path: Path) -> None:
    masters = str(tmp_path / "masters")
    pair = ImageStorage("webp90", 80, masters).store(raw)
    (tmp_path / "preferences").mkdir()
    table = to_table([pair], PendingReviewer().review([pair]), ["train"], "test")
    pq.write_table(table, tmp_path / "preferences" / "train-00000.parquet")
    settings = load("scenes", [f"run_dir={tmp_path}", f"preferences.masters={masters}", "review.gold_fraction=0"])
    with closing(open_database(settings)) as database:
        queue = open_queue(settings, database, open_store(settings, database))
        ann = Session("ann", "review", "")
        item = queue.next_item(ann)
        assert item
        shown = [decode_image(queue.image(ann, item.pair.pair_id, key)).shape for key in item.images]
        full = [decode_image(queue.image(ann, item.pair.pair_id, key, full=True)).shape for key in item.images]
        assert (shown, full) == ([(48, 80, 3)] * 2, [(96, 160, 3)] * 2)
        Path(master_location(masters, item.pair.pair_id, "w")).unlink()
        Path(master_location(masters, item.pair.pair_id, "l")).unlink()
        assert decode_image(queue.image(ann, item.pair.pair_id, item.images[0], full=True)).shape == (48, 80, 3)


def test_masters_belong_to_one_run_and_may_move(tmp_path: Path) -> None:
    one, other = (
        load("scenes", [f"run_dir={tmp_path / name}", f"preferences.masters={tmp_path / 'masters'}"])
        for name in ("one", "other")
    )
    claim_masters(one)
    claim_masters(one)
    with pytest.raises(UserError, match=r"preferences\.masters=.* belongs to another run"):
        claim_masters(other)
    moved = replace(one, preferences=replace(one.preferences, masters="s3://bucket/masters"))
    assert fingerprint(moved) == fingerprint(one)
    reduced = replace(one, preferences=replace(one.preferences, max_side=512))
    assert fingerprint(reduced) != fingerprint(one)


def test_the_plan_counts_formats_and_masters() -> None:
    def disk(*words: str) -> float:
        return campaign_cost(load("flux_dev", ["preferences.max_side=0", "preferences.keep=png", *words])).disk_gb

    assert disk("preferences.keep=webp90") == pytest.approx(disk() / 8)
    assert disk("preferences.masters=s3://bucket/masters") == pytest.approx(2 * disk())
    assert disk("preferences.max_side=1024") < 0.6 * disk()
    with pytest.raises(SettingsError, match=r"preferences\.keep"):
        load("scenes", ["preferences.keep=jpg"])

"""A published version: whole or absent, with what people decided, and readable by others' tools."""

import hashlib
import io
import json
import subprocess
import time

import datasets
import pyarrow.parquet as pq
import pytest

from conf import Settings, load
from pipelines.common.images import decode
from pipelines.common.paths import preferences_folder
from pipelines.preferences.dataset.publish import publish
from pipelines.preferences.dataset.verify import verify
from pipelines.preferences.review.annotation import Annotation, truth, verdict
from pipelines.preferences.review.auth import Session
from pipelines.preferences.review.serve import open_database, open_queue, open_store
from pipelines.preferences.review.store import ADJUDICATION, REVIEW, Vote
from pipelines.reward.data import read_pairs, read_rows
from pipelines.reward.sampler import RankInfo, _read_window, make_sampler


def _settings(run_dir, *overrides: str) -> Settings:
    return load("scenes", [f"run_dir={run_dir}", "publish.shard_rows=20", "review.gold_fraction=0", *overrides])


@pytest.fixture
def decided(run_dir) -> dict[str, str]:
    """Both reviewers judge the first six pairs: two right, two wrong, on two they differ, of which one is decided."""
    settings = _settings(run_dir)
    database = open_database(settings)
    store = open_store(settings, database)
    desk = open_queue(settings, database, store)
    statuses = ["accepted", "accepted", "rejected", "rejected", "disputed", "accepted"]
    found = {}
    for number, status in enumerate(statuses):
        pair_id = desk.next_item(Session("annotator_1", REVIEW, "")).pair.pair_id
        pair = desk.find(pair_id)
        right, wrong = truth(pair), Annotation(("yes",) * pair.claims, ("yes",) * pair.claims)
        cast = [(("annotator_1", REVIEW), right if number in (0, 1, 4, 5) else wrong)]
        cast.append((("annotator_2", REVIEW), right if number < 2 else wrong))
        if number == 5:
            cast.append((("adjudicator", ADJUDICATION), right))
        for (name, stage), ballot in cast:
            said = verdict(pair, ballot)
            store.cast(Vote(f"{name}|{pair_id}", pair_id, name, stage, ballot, said, "w", 4.0, time.time()))
        assert store.status(pair_id) == status
        found[pair_id] = status
    database.close()
    return found


def _rows(folder) -> dict[str, dict]:
    return {row["pair_id"]: row for path in folder.glob("data/*.parquet") for row in pq.read_table(path).to_pylist()}


def test_what_people_decided_is_in_the_rows_and_what_they_rejected_is_not(run_dir, decided):
    published = publish(_settings(run_dir))
    rows = _rows(published.folder)
    assert len(rows) == published.pairs == 37 and published.left_out == {"rejected": 2, "disputed": 1}
    kept = {pair: rows[pair]["review"] for pair, status in decided.items() if status == "accepted"}
    assert set(kept) == {pair for pair in decided if pair in rows}
    votes = sorted(sorted(review["votes"]) for review in kept.values())
    assert votes == [["tie", "w", "w"], ["w", "w"], ["w", "w"]]
    assert {round(review["agreement"], 2) for review in kept.values()} == {1.0, 0.67}
    card = (published.folder / "README.md").read_text()
    assert "13 votes by\n3 people" in card and "2 pairs were left out: rejected" in card
    assert "| 7 | 0 | 0.0 % | 24.1 % |" in card, "the paper's mode, beside ours"


def test_a_version_is_whole_checked_and_never_overwritten(run_dir):
    settings = _settings(run_dir)
    (run_dir / "published" / ".1.0.0.partial").mkdir(parents=True)
    (run_dir / "published" / ".1.0.0.partial" / "torn").write_text("left by a killed run")
    folder = publish(settings).folder
    assert {path.name for path in folder.iterdir()} == {"README.md", "SHA256SUMS", "data", "hpdv3", "pickapic"}
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len((folder / "SHA256SUMS").read_text().splitlines()) == len(files) - 1
    names = [path.name for path in sorted(folder.glob("data/*"))]
    assert names == ["test-00000.parquet", "train-00000.parquet", "train-00001.parquet"]
    with pytest.raises(FileExistsError, match=r"raise publish\.version"):
        publish(settings)
    assert publish(_settings(run_dir, "publish.version=1.0.1", "publish.exports=false")).folder.name == "1.0.1"


def test_digests_are_beside_the_images_and_the_exports_hold_the_same_pairs(run_dir):
    folder = publish(_settings(run_dir)).folder
    rows = _rows(folder)
    for row in rows.values():
        for side in ("image_w", "image_l"):
            assert hashlib.sha256(row[side]["bytes"]).hexdigest() == row[f"{side}_sha256"]
    train = [row for row in rows.values() if row["split"] == "train"]
    assert pq.read_metadata(folder / "pickapic" / "train.parquet").num_rows == len(train)
    assert len(json.loads((folder / "hpdv3" / "train.json").read_text())) == len(train)


def test_only_reviewed_pairs_are_published_where_that_is_asked(run_dir, decided):
    # the scenes world knows the truth of all its pairs, so only what people have left open or rejected is missing
    published = publish(_settings(run_dir, "publish.only_reviewed=true", "publish.exports=false"))
    assert published.pairs == 37


def test_stage_2_learns_from_a_version_only_if_it_is_what_was_published(run_dir, decided):
    folder = publish(_settings(run_dir, "publish.exports=false")).folder
    pairs = preferences_folder(_settings(run_dir, f"reward.pairs={folder}"))
    told: list[str] = []
    verify(str(folder), told.append)
    order = make_sampler(pairs, batch_size=5, epochs=1, window_rows=10, seed=0)
    (window, *_) = order.windows(0)
    learnt = read_rows(_read_window(order, window, RankInfo(0, 1), 0).to_pylist(), check=str)
    kept = _rows(folder)
    assert len(told) == 3 and order.pairs + len(read_pairs(pairs, "test")) == len(kept) == 37
    assert len(learnt[0]) >= 10 and not learnt[1] and {pair.pair_id for pair in learnt[0]} <= kept.keys()

    file = sorted(folder.glob("data/*"))[0]
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"x")
    with pytest.raises(ValueError, match="is not what was published: fetch it again"):
        verify(str(folder), told.append)
    file.rename(folder / "data" / "other.parquet")
    with pytest.raises(ValueError, match=r"no others, got \['other.parquet', 'test-00000.parquet'\]"):
        verify(str(folder), told.append)
    (folder / "data" / "other.parquet").unlink()
    pq.write_table(pq.read_table(io.BytesIO(content)).replace_schema_metadata({"schema_version": "0"}), file)
    sums = folder / "SHA256SUMS"
    digests = (hashlib.sha256(one).hexdigest() for one in (content, file.read_bytes()))
    sums.write_text(sums.read_text().replace(*digests))
    with pytest.raises(ValueError, match="schema version 1, got 0: publish"):
        verify(str(folder), told.append)
    with pytest.raises(FileNotFoundError, match="must be a published version"):
        verify(str(run_dir / "preferences"), told.append)


def test_huggingface_datasets_shows_images_as_images(run_dir, tmp_path):
    folder = publish(_settings(run_dir)).folder
    files = [str(path) for path in sorted(folder.glob("data/train-*.parquet"))]
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    rows = _rows(folder)
    assert isinstance(loaded.features["image_w"], datasets.Image) and len(loaded) == 32
    for shown in loaded.select(range(3)):
        row = rows[shown["pair_id"]]
        assert shown["image_l"].size == (64, 64)
        assert (decode(row["image_l"]["bytes"]) == shown["image_l"].convert("RGB")).all()
        assert shown["relations"] == row["relations"] and shown["review"]["votes"] == row["review"]["votes"]

"""A published version: complete or absent, with the annotators' decisions, and readable by other tools."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.images import decode_image
from actors.spatialscore.resize import ImageBounds
from conf import Settings, UserError, load
from pipelines.common.paths import RunPaths
from pipelines.preferences.claims import Answer
from pipelines.preferences.dataset.publish import publish
from pipelines.preferences.dataset.verify import verify
from pipelines.preferences.review.annotation import Annotation, truth, verdict
from pipelines.preferences.review.auth import Session
from pipelines.preferences.review.pairs import ReviewPair
from pipelines.preferences.review.serve import open_database, open_queue, open_store
from pipelines.preferences.review.store import Store
from pipelines.preferences.review.votes import ReviewStage, Vote
from pipelines.reward.data import DecodedRows, read_pairs
from pipelines.reward.locations import pair_source
from pipelines.reward.readers import WindowKey, read_group
from pipelines.reward.sampler import make_sampler
from tests.support.pair_sources import PENDING


def _settings(run_dir: Path, *overrides: str) -> Settings:
    return load("scenes", [f"run_dir={run_dir}", "publish.shard_rows=20", "review.gold_fraction=0", *overrides])


@pytest.fixture
def decided(run_dir: Path) -> dict[str, str]:
    """Pair id -> status: annotators accept two pairs, reject two and disagree on two, of which one is adjudicated."""
    settings = _settings(run_dir)
    database = open_database(settings)
    store = open_store(settings, database)
    queue = open_queue(settings, database, store)
    statuses = ["accepted", "accepted", "rejected", "rejected", "disputed", "accepted"]
    found: dict[str, str] = {}
    for number, status in enumerate(statuses):
        item = queue.next_item(Session("annotator_1", "review", ""))
        assert item
        pair, pair_id = item.pair, item.pair.pair_id
        all_yes: tuple[Answer, ...] = ("yes",) * pair.rule.claims
        right, wrong = truth(pair), Annotation(all_yes, all_yes)
        assert right
        _cast(store, pair, "annotator_1", right if number in (0, 1, 4, 5) else wrong)
        _cast(store, pair, "annotator_2", right if number < 2 else wrong)
        if number == 5:
            _cast(store, pair, "adjudicator", right, "adjudication")
        assert store.decisions()[pair_id].status == status
        found[pair_id] = status
    database.close()
    return found


def _cast(
    store: Store, pair: ReviewPair, annotator: str, annotation: Annotation, stage: ReviewStage = "review"
) -> None:
    store.cast(
        Vote(
            vote_id=f"{annotator}|{pair.pair_id}",
            pair_id=pair.pair_id,
            annotator=annotator,
            stage=stage,
            annotation=annotation,
            verdict=verdict(pair.rule, annotation),
            first_side="w",
            seconds=4.0,
            cast_at=time.time(),
        ),
        needs_lease=False,
    )


def _rows(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["pair_id"]: row for path in folder.glob("data/*.parquet") for row in pq.read_table(path).to_pylist()}


def test_decisions_are_in_the_rows_and_rejected_pairs_are_left_out(run_dir: Path, decided: dict[str, str]) -> None:
    published = publish(_settings(run_dir))
    rows = _rows(published.folder)
    assert len(rows) == published.pairs == 37 and published.left_out == {"rejected": 2, "disputed": 1}
    kept = {pair: rows[pair]["review"] for pair, status in decided.items() if status == "accepted"}
    assert set(kept) == {pair for pair in decided if pair in rows}
    votes = sorted(sorted(review["votes"]) for review in kept.values())
    assert votes == [["tie", "w", "w"], ["w", "w"], ["w", "w"]]
    assert {round(review["agreement"], 2) for review in kept.values()} == {1.0, 0.67}
    assert {review["tier"] for review in kept.values()} == {"strict"}
    card = (published.folder / "README.md").read_text()
    assert "13 votes with" in card and "by 3 annotators" in card and "2 pairs were left out: rejected" in card
    assert "3 pairs were judged by annotators and are accepted" in card
    assert "34 pairs were not judged by annotators. The check of the build says: accepted." in card
    assert "| 7 | 0 | 0.0 % | 24.1 % |" in card, "the mode of the paper next to our share"


def test_a_version_is_complete_and_never_overwritten(run_dir: Path) -> None:
    settings = _settings(run_dir)
    (run_dir / "published" / "1.0.0.partial").mkdir(parents=True)
    (run_dir / "published" / "1.0.0.partial" / "leftover").write_text("of a killed run")
    folder = publish(settings).folder
    assert {path.name for path in folder.iterdir()} == {"README.md", "SHA256SUMS", "data", "hpdv3", "pickapic"}
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len((folder / "SHA256SUMS").read_text().splitlines()) == len(files) - 1
    names = [path.name for path in sorted(folder.glob("data/*"))]
    assert names == ["test-00000.parquet", "train-00000.parquet", "train-00001.parquet"]
    with pytest.raises(UserError, match=r"raise publish\.version"):
        publish(settings)
    assert publish(_settings(run_dir, "publish.version=1.0.1", "publish.exports=false")).folder.name == "1.0.1"


def test_digests_match_the_images_and_the_exports_hold_the_same_pairs(run_dir: Path) -> None:
    folder = publish(_settings(run_dir)).folder
    rows = _rows(folder)
    for row in rows.values():
        for side in ("image_w", "image_l"):
            assert hashlib.sha256(row[side]["bytes"]).hexdigest() == row[f"{side}_sha256"]
    train = [row for row in rows.values() if row["split"] == "train"]
    assert pq.read_metadata(folder / "pickapic" / "train.parquet").num_rows == len(train)
    assert len(json.loads((folder / "hpdv3" / "train.json").read_text())) == len(train)


def test_pairs_that_wait_for_review_are_published_only_on_request_and_never_exported(run_dir: Path) -> None:
    for path in (run_dir / "preferences").glob("*.parquet"):
        table = pq.read_table(path)
        rows = [{**row, "review": PENDING if number else row["review"]} for number, row in enumerate(table.to_pylist())]
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    published = publish(_settings(run_dir))
    assert (published.pairs, published.left_out) == (2, {"not reviewed": 38}), "one accepted pair a split"
    everything = publish(_settings(run_dir, "publish.unreviewed=true", "publish.version=1.0.1"))
    assert everything.pairs == 40 and not everything.left_out
    assert len(json.loads((everything.folder / "hpdv3" / "train.json").read_text())) == 1
    assert pq.read_metadata(everything.folder / "pickapic" / "train.parquet").num_rows == 1
    settings = _settings(run_dir, f"reward.pairs={everything.folder}")
    with pytest.raises(UserError, match=r"38 of 40 pairs at .* wait for review"):
        pair_source(settings).require_verified()


def test_the_benchmark_is_drawn_from_accepted_pairs_and_rows_are_shuffled(run_dir: Path) -> None:
    words = ("publish.benchmark_single_edit=3", "publish.benchmark_multi_edit=2", "publish.exports=false")
    rows = list(_rows(publish(_settings(run_dir, *words)).folder).values())
    sizes = Counter((row["split"], row["n_perturb"] > 1) for row in rows)
    assert (sizes["benchmark", False], sizes["benchmark", True]) == (3, 2)
    assert {row["group_id"] for row in rows if row["split"] == "benchmark"}.isdisjoint(
        row["group_id"] for row in rows if row["split"] != "benchmark"
    )
    order = [row["pair_id"] for row in rows if row["split"] == "train"]
    assert order != sorted(order)
    with pytest.raises(UserError, match="needs 30 accepted pairs with one changed relation"):
        publish(_settings(run_dir, "publish.benchmark_single_edit=30", "publish.version=1.0.1"))


def test_a_published_version_names_no_annotator(run_dir: Path, decided: dict[str, str]) -> None:
    folder = publish(_settings(run_dir)).folder
    card = (folder / "README.md").read_text()
    assert "annotator_1" not in card and "adjudicator" not in card.replace("by an adjudicator", "")
    assert "| r1, r2 |" in card
    aliases = json.loads(RunPaths(run_dir).review_aliases.read_text())
    assert aliases == {"annotator_1": "r1", "annotator_2": "r2", "adjudicator": "r3"}


def test_a_changed_version_is_refused_by_stage_2(run_dir: Path, decided: dict[str, str]) -> None:
    folder = publish(_settings(run_dir, "publish.exports=false")).folder
    pairs = pair_source(_settings(run_dir, f"reward.pairs={folder}"))
    lines: list[str] = []
    verify(str(folder), lines.append)
    sampler = make_sampler(pairs, batch_size=5, epochs=1, window_rows=10, seed=0)
    (window, *_) = sampler.windows(0)
    key, bounds = WindowKey(0, 0, 0, 1), ImageBounds(4096, 16)
    groups = [read_group(sampler, window, group, key, bounds) for group in range(len(window.groups))]
    decoded = DecodedRows.of([row for (rows,) in groups for row in rows])
    kept = _rows(folder)
    assert len(lines) == 3 and sampler.pairs + len(read_pairs(pairs, ("test",)).pairs) == len(kept) == 37
    assert len(decoded.pairs) >= 10 and not decoded.unreadable
    assert {pair.pair_id for pair in decoded.pairs} <= kept.keys()

    file = sorted(folder.glob("data/*"))[0]
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"x")
    with pytest.raises(UserError, match="differs from what was published: download it again"):
        verify(str(folder), lines.append)
    file.rename(folder / "data" / "other.parquet")
    with pytest.raises(UserError, match=r"missing or added: \['other.parquet', 'test-00000.parquet'\]"):
        verify(str(folder), lines.append)
    (folder / "data" / "other.parquet").unlink()
    pq.write_table(pq.read_table(io.BytesIO(content)).replace_schema_metadata({"schema_version": "0"}), file)
    sums = folder / "SHA256SUMS"
    before, after = (hashlib.sha256(one).hexdigest() for one in (content, file.read_bytes()))
    sums.write_text(sums.read_text().replace(before, after))
    with pytest.raises(UserError, match="schema version 2, got 0: publish"):
        verify(str(folder), lines.append)
    for damaged in ("no digest", "0" * 64, sums.read_text()[:80]):
        sums.write_text(damaged)
        with pytest.raises(UserError, match=r"must have lines `<sha256>  <path>`|exactly the files"):
            verify(str(folder), lines.append)
    with pytest.raises(UserError, match="must be a published version"):
        verify(str(run_dir / "preferences"), lines.append)


def test_huggingface_datasets_decodes_the_images(run_dir: Path, tmp_path: Path) -> None:
    folder = publish(_settings(run_dir)).folder
    files = [str(path) for path in sorted(folder.glob("data/train-*.parquet"))]
    loaded: Any = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    rows = _rows(folder)
    described = json.loads(pq.read_schema(files[0]).metadata[b"huggingface"])["info"]["features"]
    assert '"List"' not in json.dumps(described), "versions of datasets before 4 do not know this type"
    assert isinstance(loaded.features["image_w"], datasets.Image) and len(loaded) == 32
    for shown in loaded.select(range(3)):
        row = rows[shown["pair_id"]]
        assert shown["image_l"].size == (64, 64)
        assert (decode_image(row["image_l"]["bytes"]) == shown["image_l"].convert("RGB")).all()
        assert shown["relations"] == row["relations"] and shown["review"]["votes"] == row["review"]["votes"]

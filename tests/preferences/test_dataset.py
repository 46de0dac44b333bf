"""Shards, sampling plans, the schema, near-duplicates and the benchmark, without Ray."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from conf import UserError, load
from pipelines.common.images import StoredImage, hamming
from pipelines.common.paths import RunPaths
from pipelines.preferences.build import fingerprint
from pipelines.preferences.dataset.build_folder import BuildFolder
from pipelines.preferences.dataset.schema import SCHEMA, to_table
from pipelines.preferences.dataset.shards import plan_shards, row_specs
from pipelines.preferences.dataset.splits import Member, check_benchmark, choose_benchmark
from pipelines.preferences.finalize import finalize
from pipelines.preferences.pipeline import sampling_plans
from pipelines.preferences.roles.base import Dropped, ImagePair, PromptPair, Review, RowSpec
from tests.support.scene_pairs import scene_prompts


def test_images_have_the_form_that_huggingface_datasets_decodes() -> None:
    for side in ("image_w", "image_l"):
        fields = {field.name: field.type for field in SCHEMA.field(side).type}
        assert fields["bytes"] == pa.binary()
        assert fields["path"] == pa.string()


def test_the_base_samples_without_and_with_training_noise_and_shares_no_noise() -> None:
    plain, training = sampling_plans(load("scenes", ["policy.sampling.shared_initial_noise=true"]))
    assert not plain.noise_steps
    assert training.noise_steps
    assert training.images_per_noise == 1
    assert plain.denoise_steps == training.denoise_steps


def test_kinds_have_their_fractions_and_shards_cover_every_row() -> None:
    settings = load("scenes", ["preferences.pairs=1000", "preferences.shard_rows=130"]).preferences
    specs = [spec for shard in plan_shards(settings) for spec in row_specs(shard, settings)]
    assert [spec.index for spec in specs] == list(range(1000))
    assert Counter(spec.kind for spec in specs) == {"perturbed": 400, "corrupted": 200, "generated": 400}
    assert len({spec.seed for spec in specs}) == 1000


def test_near_duplicate_images_are_dropped_and_finalizing_can_be_repeated(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, loser, third = (rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(3))
    similar = first.copy()
    similar[0, 0] = 255 - similar[0, 0]
    assert hamming(StoredImage.of(first, "", 0).phash, StoredImage.of(similar, "", 0).phash) <= 4
    prompt = scene_prompts([RowSpec(0, "perturbed", 1)])[0].prompt
    pairs = [
        ImagePair(
            PromptPair(RowSpec(i, "corrupted", 1), prompt, "pair", "g"),
            StoredImage.of(winner, "", 0),
            StoredImage.of(loser, "", 0),
        )
        for i, winner in enumerate((first, similar, third))
    ]
    paths, review = RunPaths(tmp_path), Review("accepted", ("w",), 1.0, True)
    folder = BuildFolder(paths, "abc")
    shard = plan_shards(load("scenes", ["preferences.pairs=10"]).preferences)[0]
    folder.write(shard, to_table(pairs, [review] * 3, ["train"] * 3, "abc"), rejected=0, dropped=[])
    settings = load("scenes", ["preferences.test_fraction=0"]).preferences
    manifest = finalize(folder, settings, {})
    assert manifest["near_duplicate_images"] == 1
    assert manifest["pairs"] == 2
    ids = ds.dataset(paths.preferences, format="parquet").to_table()["pair_id"].to_pylist()
    assert sorted(ids) == ["pair-00000000", "pair-00000002"]
    before = (paths.preferences / "train-00000.parquet").read_bytes()
    assert finalize(folder, settings, {})["near_duplicate_images"] == 1, "rows are put aside, not deleted"
    assert finalize(folder, settings, {})["pairs"] == 2
    assert (paths.preferences / "train-00000.parquet").read_bytes() == before
    assert json.loads(paths.preferences_manifest.read_text())["fingerprint"] == "abc"


def _built(root: Path) -> RunPaths:
    """A whole build of one shard with three pairs."""
    paths = RunPaths(root)
    images = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    prompt = scene_prompts([RowSpec(0, "perturbed", 1)])[0].prompt
    pairs = [
        ImagePair(
            PromptPair(RowSpec(i, "corrupted", 1), prompt, "pair", "g"),
            StoredImage.of(images[2 * i], "", 0),
            StoredImage.of(images[2 * i + 1], "", 0),
        )
        for i in range(3)
    ]
    preferences = load("scenes", ["preferences.pairs=10", "preferences.test_fraction=0"]).preferences
    folder, review = BuildFolder(paths, "abc"), Review("accepted", ("w",), 1.0, True)
    dropped = [Dropped(RowSpec(9, "corrupted", 1), "writer", "refused", "no")]
    folder.write(plan_shards(preferences)[0], to_table(pairs, [review] * 3, ["train"] * 3, "abc"), 0, dropped)
    finalize(folder, preferences, {"seconds": 1.0})
    return paths


def _replaced(*changes: tuple[bytes, bytes]) -> Callable[[bytes], bytes]:
    return lambda content: reduce(lambda text, change: text.replace(*change), changes, content)


@pytest.mark.parametrize("which", ["manifest", "report"])
@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"\xff\xfe",
        lambda content: b"[" * 100_000,
        lambda content: b"[]",
        lambda content: b"{}",
        _replaced((b'"abc"', b"3")),
        _replaced((b'"rejected": 0', b'"rejected": "0"'), (b'"seconds": 1.0', b'"seconds": "1"')),
        _replaced((b'"dropped": [', b'"gone": ['), (b'"files"', b'"gone"')),
        _replaced((b"train-00000", b"../preferences/train-00000"), (b'"role"', b'"r"')),
        _replaced((b"train-00000.parquet", b".shards"), (b'"rows": 3', b'"rows": null')),
    ],
    ids=range(11),
)
def test_a_damaged_manifest_or_report_is_passed_over(
    which: str, change: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The shard, or the end of the build, is made again. Nothing else is touched."""
    paths = _built(tmp_path)
    shard = plan_shards(load("scenes", ["preferences.pairs=10"]).preferences)[0]
    file = paths.preferences_manifest if which == "manifest" else paths.preferences_shards / "00000.json"
    content = file.read_bytes()
    assert change(content) != content
    file.write_bytes(change(content))
    caplog.clear()
    folder = BuildFolder(paths, "abc")
    assert (folder.read_manifest() is None) == (which == "manifest")
    assert folder.is_finished(shard) == (which == "manifest")
    assert str(file) in caplog.text and "passed over" in caplog.text
    assert len(list(paths.preferences.glob("*.parquet"))) == 1


def test_a_whole_build_is_read_whatever_the_order_of_its_keys_and_a_damaged_table_is_not(tmp_path: Path) -> None:
    paths = _built(tmp_path)
    content = json.loads(paths.preferences_manifest.read_text())
    paths.preferences_manifest.write_text(json.dumps(dict(reversed(content.items()))))
    assert BuildFolder(paths, "abc").read_manifest() == content
    with pytest.raises(UserError, match=r"built with these settings \(x\), but .* other settings \(abc\)"):
        BuildFolder(paths, "x")
    shard = plan_shards(load("scenes", ["preferences.pairs=10"]).preferences)[0]
    table = paths.preferences / "train-00000.parquet"
    table.write_bytes(table.read_bytes()[:-1])
    folder = BuildFolder(paths, "abc")
    assert folder.read_manifest() is None and not folder.is_finished(shard)
    for file in (table, paths.preferences_manifest):
        file.unlink()
        file.mkdir()
        with pytest.raises(UserError, match=f"{file} must be a file, got a folder: move it"):
            BuildFolder(paths, "abc")
        file.rmdir()


def test_the_benchmark_takes_whole_groups_and_its_exact_size() -> None:
    members = [Member(f"p{i}", f"g{i // 2}", n_perturb=1 + i // 2 % 2) for i in range(40)]
    chosen = choose_benchmark(members, single_edit=6, multi_edit=4)
    edits = Counter(member.n_perturb for member in members if member.pair_id in chosen)
    assert edits == {1: 6, 2: 4}
    groups = {member.group_id for member in members if member.pair_id in chosen}
    assert chosen == {member.pair_id for member in members if member.group_id in groups}


def test_too_few_pairs_for_the_benchmark_are_a_user_error() -> None:
    with pytest.raises(UserError, match=r"lacks 1 and 2 of them: review more pairs"):
        choose_benchmark([Member("p", "g", n_perturb=1)], single_edit=2, multi_edit=2)


def test_a_build_that_cannot_hold_the_benchmark_is_refused_before_it_starts() -> None:
    trial = load("flux_dev", ["preferences.pairs=100"])
    with pytest.raises(UserError, match=r"365 > 10: .* publish\.benchmark_single_edit=0"):
        check_benchmark(trial.preferences, trial.publish)
    paper = load("flux_dev")
    check_benchmark(paper.preferences, paper.publish)


def test_settings_of_the_end_can_change_in_a_complete_build(tmp_path: Path) -> None:
    paths = _built(tmp_path)
    folder = BuildFolder(paths, "abc")
    all_test = finalize(folder, load("scenes", ["preferences.test_fraction=1"]).preferences, {"seconds": 1.0})
    assert all_test["by_split"] == {"test": 3}
    strict = load("scenes", ["preferences.near_duplicate_words=0.5"]).preferences
    same_prompt = finalize(folder, strict, {"seconds": 1.0})
    assert (same_prompt["pairs"], same_prompt["near_duplicate_prompts"]) == (1, 2)
    again = finalize(folder, load("scenes", ["preferences.test_fraction=0"]).preferences, {"seconds": 1.0})
    assert again["by_split"] == {"train": 3}, "the duplicates are back"
    values = [load("scenes", [word]) for word in ("preferences.seed=0", "preferences.test_fraction=0.3")]
    assert fingerprint(values[0]) == fingerprint(values[1]) != fingerprint(load("scenes", ["preferences.seed=1"]))

"""A whole build: rows, splits, repeated starts, kills and refusals."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from actors.images import decode_image
from conf import Settings, SettingsError, UserError, load
from pipelines.common.images import StoredImage
from pipelines.common.paths import run_paths
from pipelines.common.relations import split_group
from pipelines.preferences.build import build_preferences
from pipelines.preferences.dataset.schema import SCHEMA
from pipelines.preferences.dataset.splits import split_of
from pipelines.preferences.roles.scenes import num_satisfied
from pipelines.scenes import grammar
from pipelines.scenes.checker import check
from tests.support.kill import killing

PAIRS, SHARD = 48, 12


def _settings(run_dir: Path, *overrides: str) -> Settings:
    return load(
        "scenes",
        [
            f"run_dir={run_dir}",
            f"preferences.pairs={PAIRS}",
            f"preferences.shard_rows={SHARD}",
            "preferences.generated_fraction=0",
            "preferences.corrupted_fraction=0.25",
            "preferences.test_fraction=0.25",
            *overrides,
        ],
    )


def _rows(directory: str | Path) -> list[dict[str, Any]]:
    return ds.dataset(directory, format="parquet").to_table().sort_by("pair_id").to_pylist()


@pytest.fixture(scope="module")
def built(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a complete build."""
    return build_preferences(_settings(tmp_path_factory.mktemp("complete"))).directory


@pytest.mark.ray
def test_rows_match_their_prompts_and_images(built: str) -> None:
    table = ds.dataset(built, format="parquet").to_table()
    assert table.schema.equals(SCHEMA)
    rows = _rows(built)
    assert [row["pair_id"] for row in rows] == [f"pair-{i:08d}" for i in range(PAIRS)], "no row is lost or doubled"
    assert Counter(row["kind"] for row in rows) == {"perturbed": 36, "corrupted": 12}
    for row in rows:
        scene = grammar.parse(row["prompt"])
        assert [vars(relation) for relation in scene.relations] == row["relations"]
        assert row["group_id"] == split_group(scene.relations)
        assert row["split"] == split_of(row["group_id"], 0.25)
        assert (row["perturbed_prompt"] is None) == (row["kind"] == "corrupted") == (row["n_perturb"] == 0)
        tier = "strict" if row["kind"] == "perturbed" else "ordered"  # a missing object takes its relations along
        assert row["review"] == {"status": "accepted", "tier": tier, "votes": ["w"], "agreement": 1.0, "gold": True}
        for image in (row["image_w"], row["image_l"]):
            pixels = decode_image(image["bytes"])
            assert pixels.shape == (64, 64, 3)
            assert StoredImage(image["bytes"], "", "", 0).sha256 == image["sha256"]
            assert StoredImage.of(pixels, "", 0).phash == image["phash"]


@pytest.mark.ray
def test_files_are_named_by_split_and_no_group_is_in_both_splits(built: str) -> None:
    groups: dict[str, set[str]] = {}
    for split in ("train", "test"):
        rows = [row for path in Path(built).glob(f"{split}-*.parquet") for row in _rows(path)]
        assert rows
        assert {row["split"] for row in rows} == {split}
        groups[split] = {row["group_id"] for row in rows}
    assert not groups["train"] & groups["test"]


@pytest.mark.ray
def test_a_complete_build_is_not_repeated(built: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(built).glob("*.parquet")}
    again = build_preferences(_settings(Path(built).parent, "preferences.generator_actors=5"))
    assert not again.built
    assert again.pairs == PAIRS
    assert {path: path.stat().st_mtime_ns for path in Path(built).glob("*.parquet")} == before


@pytest.mark.ray
def test_other_settings_in_the_same_folder_are_a_user_error(built: str) -> None:
    with pytest.raises(UserError, match="delete the folder or choose another run_dir"):
        build_preferences(_settings(Path(built).parent, "preferences.seed=1"))


@pytest.mark.ray
def test_an_interrupted_build_continues_and_gives_the_same_pairs(built: str, tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    paths = run_paths(settings)
    build_preferences(settings)
    # As a kill leaves it: shards 1 and 2 are finished, shard 3 is missing, a file of shard 0 is damaged.
    paths.preferences_manifest.unlink()
    for shard in ("00000", "00003"):
        (paths.preferences_shards / f"{shard}.json").unlink()
        for file in paths.preferences.glob(f"*-{shard}.parquet"):
            file.unlink()
    (paths.preferences / "train-00000.parquet").write_bytes(b"damaged")
    kept = {file: file.stat().st_mtime_ns for file in paths.preferences.glob("*-0000[12].parquet")}
    result = build_preferences(settings)
    assert result.built
    assert _rows(result.directory) == _rows(built)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept, "finished shards are not made again"


@pytest.mark.ray
def test_a_killed_worker_loses_no_row(ray_cluster: None, tmp_path: Path) -> None:
    large = ("preferences.pairs=400", "preferences.shard_rows=200")  # a task runs for about a second
    with killing("render_batch") as killed:
        disturbed = build_preferences(_settings(tmp_path / "disturbed", *large))
    undisturbed = build_preferences(_settings(tmp_path / "undisturbed", *large))
    assert killed
    assert _rows(disturbed.directory) == _rows(undisturbed.directory)


@pytest.mark.ray
def test_a_damaged_file_is_made_again(built: str) -> None:
    rows, damaged = _rows(built), next(Path(built).glob("train-*.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:-20])
    result = build_preferences(_settings(Path(built).parent))
    assert result.built
    assert _rows(built) == rows


@pytest.mark.ray
def test_generated_pairs_differ_in_satisfied_relations_and_are_reproducible(ray_cluster: None, tmp_path: Path) -> None:
    settings = _settings(
        tmp_path,
        "preferences.pairs=24",
        "preferences.generated_fraction=0.5",
        "preferences.batch_size=6",
        "preferences.generator_actors=1",
    )
    result = build_preferences(settings)
    rows = _rows(result.directory)
    assert Counter(row["generator"] for row in rows) == {"scenes-renderer": 12, "flux-base": 12}
    for row in rows[12:]:
        assert row["kind"] == "generated"
        assert row["n_perturb"] == 0
        assert row["perturbed_prompt"] is None
        relations = grammar.parse(row["prompt"]).relations
        assert not grammar.is_held_out(relations)
        winner, loser = (
            num_satisfied(check(decode_image(row[side]["bytes"]), relations)) for side in ("image_w", "image_l")
        )
        assert winner > loser
    paths = run_paths(settings)
    (paths.preferences_shards / "00001.json").unlink()
    paths.preferences_manifest.unlink()
    assert _rows(build_preferences(settings).directory) == rows


def test_generated_pairs_of_another_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"set preferences.generated_fraction=0"):
        build_preferences(load("scenes", [f"run_dir={tmp_path}", "flux.model=owner/model"]))


def test_a_missing_key_of_a_service_is_a_user_error(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match=r"key of claim_judge is read from \$OPENAI_API_KEY, which is not set"):
        build_preferences(load("flux_dev", [f"run_dir={tmp_path}"]))

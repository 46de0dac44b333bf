"""The build as a whole: rows, splits, restarts, refusals."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from conf import Settings, load
from pipelines.common.images import StoredImage, decode, hamming
from pipelines.common.relations import split_group
from pipelines.preferences.build import build_preferences, fingerprint
from pipelines.preferences.dataset.schema import SCHEMA, to_table
from pipelines.preferences.dataset.shards import Folder, plan_shards, row_specs
from pipelines.preferences.dataset.splits import split_of
from pipelines.preferences.finalize import finish
from pipelines.preferences.pipeline import plan, sampling_plans
from pipelines.preferences.roles.base import ImagePair, PromptPair, Review, RowSpec
from pipelines.preferences.roles.scenes import SceneWriter, num_satisfied
from pipelines.preferences.services import ServiceContext
from pipelines.scenes import grammar
from pipelines.scenes.checker import check
from tests.support.kill import killing

PAIRS, SHARD = 48, 12


def _settings(run_dir: Path, *overrides: str) -> Settings:
    return load("scenes", [
        f"run_dir={run_dir}", f"preferences.pairs={PAIRS}", f"preferences.shard_rows={SHARD}",
        "preferences.generated_fraction=0", "preferences.corrupted_fraction=0.25", "preferences.test_fraction=0.25",
        *overrides,
    ])  # fmt: skip


def _rows(directory: str | Path) -> list[dict]:
    return ds.dataset(directory, format="parquet").to_table().sort_by("pair_id").to_pylist()


@pytest.fixture(scope="module")
def built(ray_cluster, tmp_path_factory) -> str:
    return build_preferences(_settings(tmp_path_factory.mktemp("whole"))).directory


@pytest.mark.ray
def test_rows_round_trip_and_hold_what_they_say(built):
    table = ds.dataset(built, format="parquet").to_table()
    assert table.schema.equals(SCHEMA)
    rows = _rows(built)
    assert [row["pair_id"] for row in rows] == [f"pair-{i:08d}" for i in range(PAIRS)], "none lost, none twice"
    assert Counter(row["kind"] for row in rows) == {"perturbed": 36, "exploit": 12}
    for row in rows:
        scene = grammar.parse(row["prompt"])
        assert [vars(relation) for relation in scene.relations] == row["relations"]
        assert row["group_id"] == split_group(scene.relations) and row["split"] == split_of(row["group_id"], 0.25)
        assert (row["perturbed_prompt"] is None) == (row["kind"] == "exploit") == (row["n_perturb"] == 0)
        assert row["review"] == {"status": "accepted", "votes": ["w"], "agreement": 1.0, "gold": True}
        for side in ("image_w", "image_l"):
            image = row[side]
            picture = StoredImage.of(decode(image["bytes"]), "", 0)
            assert picture.pixels().shape == (64, 64, 3)
            assert StoredImage(image["bytes"], "", "", 0).sha256 == image["sha256"] and picture.phash == image["phash"]


@pytest.mark.ray
def test_files_are_named_by_split_and_no_group_is_on_both_sides(built):
    groups = {}
    for split in ("train", "test"):
        rows = [row for path in Path(built).glob(f"{split}-*.parquet") for row in _rows(path)]
        assert rows and {row["split"] for row in rows} == {split}
        groups[split] = {row["group_id"] for row in rows}
    assert not groups["train"] & groups["test"]


def test_images_have_the_form_that_huggingface_datasets_decodes():
    for side in ("image_w", "image_l"):
        fields = {field.name: field.type for field in SCHEMA.field(side).type}
        assert fields["bytes"] == pa.binary() and fields["path"] == pa.string()


@pytest.mark.ray
def test_a_complete_build_is_recognised_and_not_redone(built):
    before = {path: path.stat().st_mtime_ns for path in Path(built).glob("*.parquet")}
    again = build_preferences(_settings(Path(built).parent, "preferences.generator_actors=5"))
    assert not again.built and again.pairs == PAIRS
    assert {path: path.stat().st_mtime_ns for path in Path(built).glob("*.parquet")} == before


@pytest.mark.ray
def test_other_settings_in_the_same_folder_are_refused(built):
    with pytest.raises(ValueError, match="delete the folder or choose another run_dir"):
        build_preferences(_settings(Path(built).parent, "preferences.seed=1"))


@pytest.mark.ray
def test_a_killed_build_goes_on_and_ends_with_the_same_pairs(built, ray_cluster, tmp_path):
    settings = _settings(tmp_path)
    folder = Folder(tmp_path / "preferences", fingerprint(settings))
    shards = plan_shards(settings.preferences)
    list(
        plan(shards[1:3], settings, folder, ServiceContext.open(settings, 1)).iter_rows()
    )  # finished before the kill: shards 1 and 2
    half = tmp_path / "preferences" / "train-00000.parquet"  # shard 0: a file, but no report that it is complete
    half.write_bytes(b"torn")
    result = build_preferences(settings)
    assert result.built and _rows(result.directory) == _rows(built)


@pytest.mark.ray
def test_a_killed_worker_loses_no_row(ray_cluster, tmp_path):
    large = ("preferences.pairs=400", "preferences.shard_rows=200")  # a task is under way for about a second
    with killing("MapBatches(paint)") as killed:
        disturbed = build_preferences(_settings(tmp_path / "disturbed", *large))
    calm = build_preferences(_settings(tmp_path / "calm", *large))
    assert killed and _rows(disturbed.directory) == _rows(calm.directory)


@pytest.mark.ray
def test_a_damaged_file_is_made_again(built):
    rows, victim = _rows(built), next(Path(built).glob("train-*.parquet"))
    victim.write_bytes(victim.read_bytes()[:-20])
    result = build_preferences(_settings(Path(built).parent))
    assert result.built and _rows(built) == rows


@pytest.mark.ray
def test_the_base_policys_pairs_differ_in_merit_and_come_again_alike(ray_cluster, tmp_path):
    settings = _settings(
        tmp_path, "preferences.pairs=24", "preferences.generated_fraction=0.5", "preferences.batch_size=6"
    )
    result = build_preferences(settings)
    rows = _rows(result.directory)
    assert Counter(row["generator"] for row in rows) == {"scenes-renderer": 12, "flux-base": 12}
    for row in rows[12:]:
        assert row["kind"] == "generated" and row["n_perturb"] == 0 and row["perturbed_prompt"] is None
        asked = grammar.parse(row["prompt"]).relations
        assert not grammar.is_held_out(asked)
        winner, loser = (num_satisfied(check(decode(row[side]["bytes"]), asked)) for side in ("image_w", "image_l"))
        assert winner > loser
    (tmp_path / "preferences" / ".shards" / "00001.json").unlink()
    (tmp_path / "preferences" / "_manifest.json").unlink()
    assert _rows(build_preferences(settings).directory) == rows


def test_the_base_draws_many_prompts_at_once_whatever_noise_a_group_shares():
    plain, training = sampling_plans(load("scenes", ["policy.sampling.shared_initial_noise=true"]))
    assert not plain.noise_steps and training.noise_steps and training.images_per_noise == 1
    assert plain.denoise_steps == training.denoise_steps


def test_kinds_come_in_the_asked_shares_and_shards_cover_every_row():
    settings = load("scenes", ["preferences.pairs=1000", "preferences.shard_rows=130"]).preferences
    tasks = [task for shard in plan_shards(settings) for task in row_specs(shard, settings)]
    assert [task.index for task in tasks] == list(range(1000))
    assert Counter(task.kind for task in tasks) == {"perturbed": 400, "exploit": 200, "generated": 400}
    assert len({task.seed for task in tasks}) == 1000


def test_near_duplicates_are_dropped_once(tmp_path):
    rng = np.random.default_rng(0)
    first, other, third = (rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(3))
    nearly = first.copy()
    nearly[0, 0] = 255 - nearly[0, 0]
    assert hamming(StoredImage.of(first, "", 0).phash, StoredImage.of(nearly, "", 0).phash) <= 4
    draft: PromptPair = SceneWriter().write([RowSpec(0, "perturbed", 1)])[0]
    pairs = [
        ImagePair(
            PromptPair(RowSpec(i, "exploit", 1), draft.prompt, "pair", "g"),
            StoredImage.of(w, "", 0),
            StoredImage.of(other, "", 0),
        )
        for i, w in enumerate((first, nearly, third))
    ]
    review = Review("accepted", ("w",), 1.0, True)
    folder = Folder(tmp_path, "abc")
    shard = plan_shards(load("scenes", ["preferences.pairs=10"]).preferences)[0]
    folder.write(shard, to_table(pairs, [review] * 3, ["train"] * 3, "abc"), rejected=0, dropped=[])
    settings = load("scenes", ["preferences.test_fraction=0"]).preferences
    manifest = finish(folder, settings, {})
    assert manifest["near_duplicate_pictures"] == 1 and manifest["pairs"] == 2
    assert [row["pair_id"] for row in _rows(tmp_path)] == ["pair-00000000", "pair-00000002"]
    assert finish(folder, settings, {})["near_duplicate_pictures"] == 0
    assert json.loads(folder.manifest_path.read_text())["fingerprint"] == "abc"


def test_another_world_is_refused_with_the_mend(tmp_path):
    with pytest.raises(ValueError, match=r"set preferences.generated_fraction=0"):
        build_preferences(load("scenes", [f"run_dir={tmp_path}", "flux.model=owner/model"]))


def test_the_papers_services_need_their_keys(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match=r"key of writer is read from \$OPENAI_API_KEY, which is not set"):
        build_preferences(load("flux_dev", [f"run_dir={tmp_path}"]))

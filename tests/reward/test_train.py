"""Stage 2 as a whole on a few dozen pairs: Ray Train, resuming, held-out accuracy, sanity checks, DeepSpeed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.spatialscore.calibration import read_calibration
from conf import UserError
from conf.load import load
from conf.reward import RewardSettings, SpatialScoreSettings
from conf.settings import Settings
from pipelines.common.paths import run_paths
from pipelines.preferences.dataset.schema import to_table
from pipelines.preferences.roles.base import RowSpec
from pipelines.preferences.roles.scenes import SceneReviewer
from pipelines.reward.evaluate import evaluate_reward
from pipelines.reward.sanity_checks import run_sanity_checks
from pipelines.reward.train import train_reward
from pipelines.scenes.hard_negatives import HARD_KINDS
from tests.support.kill import titled
from tests.support.scene_pairs import scene_pairs
from tests.support.tiny_reward import save_tiny_vlm

ROWS, TEST_ROWS = 64, 16
TINY = (
    "reward.batch_size=8",
    "reward.epochs=1",
    "reward.lr=3e-3",
    "reward.loss=bt",
    "reward.workers=2",
    "reward.threads_per_worker=1",
    "reward.cpus_per_worker=0.5",
    "reward.use_gpu=false",
    "reward.log_every=1",
    "reward.checkpoint_every=2",
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A run with 64 pairs, 16 of them held out, and a random backbone."""
    save_tiny_vlm(tmp_path / "vlm")
    settings = Settings(
        run_dir=str(tmp_path),
        spatialscore=SpatialScoreSettings(model=str(tmp_path / "vlm")),
        reward=RewardSettings(batch_size=8, epochs=2, workers=2, checkpoint_every=4, log_every=1, shuffle_rows=16),
    )
    specs = [RowSpec(index, "corrupted" if index % 4 == 0 else "perturbed", index) for index in range(ROWS)]
    pairs = scene_pairs(specs)
    splits = ["test" if index < TEST_ROWS else "train" for index in range(ROWS)]
    table = to_table(pairs, SceneReviewer().review(pairs), splits, "test")
    folder = run_paths(settings).preferences
    folder.mkdir()
    for shard in range(2):
        pq.write_table(table.slice(shard * 32, 32), folder / f"{shard}.parquet")
    return settings


@pytest.mark.ray
@pytest.mark.slow
def test_training_survives_a_killed_worker_with_the_same_weights_and_the_model_is_measured_and_checked(
    ray_cluster: None, settings: Settings
) -> None:
    """The run whose worker is killed ends with the weights of the undisturbed run, bit for bit."""
    lines: list[str] = []
    paths = run_paths(settings)
    result = train_reward(settings, lines.append)
    assert (result.pairs, result.steps, result.unreadable) == (48, 12, 0)
    assert np.isfinite(result.loss)
    assert any("reward step 12/12" in line for line in lines)
    curve = _metrics(settings)
    assert [row["step"] for row in curve] == list(range(1, 13))
    measured = [row for row in curve if "held_out_accuracy" in row]
    assert [(row["step"], row["held_out_pairs"]) for row in measured] == [(6, TEST_ROWS), (12, TEST_ROWS)]
    assert curve[-1]["pairs_seen"] == 96
    assert any("16 image tokens" in line for line in lines)
    assert {"margin", "sigma", "lr", "mfu", "pairs_per_second", "accuracy/1 changed", "accuracy/left of"} <= {
        name for row in curve for name in row
    }
    report = evaluate_reward(settings)
    overall = report.models[0].accuracies.overall
    assert overall is not None
    assert overall.pairs == TEST_ROWS
    saved = json.loads(paths.reward_evaluation.read_text())
    assert saved["models"][0]["accuracies"]["overall"]["pairs"] == TEST_ROWS
    assert list(saved["hard_negatives"]) == list(HARD_KINDS)
    assert sum(group["accuracy"]["pairs"] for group in saved["uncertainty"]["groups"]) == TEST_ROWS
    card = (paths.reward_model / "README.md").read_text()
    assert "| all pairs |" in card
    assert "48 pairs, 12 optimizer steps" in card
    calibration = read_calibration(paths.reward_model)
    assert calibration and calibration.temperature == saved["calibrations"][0]["temperature"]
    checks = {check.name: check for check in run_sanity_checks(settings)}
    assert checks["save and load"].passed
    assert checks["LoRA"].passed
    assert checks["spread"].passed
    assert {"noise image", "2 x 2", "image size"} <= set(checks)
    repeated = train_reward(settings, lines.append)  # the fit is finished: nothing is trained again
    assert repeated.loss == result.loss

    disturbed, killer = _with_the_same_pairs(settings, "disturbed"), _WorkerKiller(step=9)  # checkpoints: 4, 6 and 8
    train_reward(disturbed, killer)
    assert killer.killed
    for name in ("adapter_model.safetensors", "head.safetensors"):
        expected, weights = (run_paths(run).reward_model / name for run in (settings, disturbed))
        assert expected.read_bytes() == weights.read_bytes(), name
    rows = _metrics(disturbed)
    assert [(row["step"], row["loss"]) for row in rows] == [(row["step"], row["loss"]) for row in curve]


@pytest.mark.ray
@pytest.mark.slow
def test_a_fit_stops_early_with_its_best_weights_and_goes_on_with_other_workers(
    ray_cluster: None, settings: Settings
) -> None:
    """The learning rate is so low that no accuracy changes: the first measurement stays the best one."""
    patient = replace(settings.reward, keep="best", patience=2, evaluate_every=2, epochs=4, lr=1e-12)
    run = replace(settings, reward=patient)
    result = train_reward(run, [].append)
    assert result.steps == 6, "measured after 2, 4 and 6 of 24 steps"
    assert "48 pairs, 2 optimizer steps" in (run_paths(run).reward_model / "README.md").read_text()
    other = replace(run, reward=replace(patient, workers=1, readers=2))
    assert train_reward(other, [].append).steps == 6, "the same fit, which is finished"


@pytest.mark.ray
@pytest.mark.slow
def test_a_fit_goes_on_without_unreadable_pairs_unless_they_are_many(ray_cluster: None, settings: Settings) -> None:
    """With one pair a worker and step, an unreadable pair leaves a worker without any."""
    tiny = replace(settings, reward=replace(settings.reward, batch_size=2, epochs=1, checkpoint_every=50, log_every=24))
    file = run_paths(tiny).preferences / "1.parquet"
    table = pq.read_table(file)

    def damage(count: int) -> None:
        rows = table.to_pylist()
        for row in rows[:count]:
            row["image_w"]["bytes"] = b"GIF89a"
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)

    damage(20)
    for _ in range(2):
        with pytest.raises(UserError, match=r"20 of 48 pairs cannot be read and are left out .*Repair or remove"):
            train_reward(tiny, [].append)
    assert not run_paths(tiny).reward_model.exists()
    damage(2)
    lines: list[str] = []
    result = train_reward(tiny, lines.append)
    assert (result.pairs, result.steps, result.unreadable) == (48, 24, 2)
    assert np.isfinite(result.loss)
    assert any("2 of 48 pairs cannot be read and are left out (" in line for line in lines)


@pytest.mark.ray
@pytest.mark.slow
def test_zero_2_and_zero_3_and_one_plain_process_have_the_same_loss_curve(
    ray_cluster: None, settings: Settings
) -> None:
    """The preset flux_dev with tiny sizes on two gloo workers, of which one is killed. ZeRO-3 shards all parameters.

    The workers of ZeRO have four pairs of a step, and compute them in four passes and in two.
    """
    tiny = load("flux_dev", TINY).reward
    curves: dict[str, list[tuple[float, float]]] = {}
    for name, changes in {
        "plain": {"engine": "torch", "workers": 1},
        "zero-2": {"zero_stage": 2, "micro_batch_size": 1},
        "zero-3": {"zero_stage": 3, "param_persistence_threshold": 0, "micro_batch_size": 3},
    }.items():
        run = replace(_with_the_same_pairs(settings, name), reward=replace(tiny, **changes))
        killer = _WorkerKiller(step=5)
        train_reward(run, print if name == "plain" else killer)
        assert killer.killed or name == "plain"
        curves[name] = [(row["loss"], row["grad_norm"]) for row in _metrics(run)]
        checks = {check.name: check for check in run_sanity_checks(run)}
        assert checks["LoRA"].passed
        assert checks["save and load"].passed
    assert len(curves["plain"]) == 6
    np.testing.assert_allclose(curves["zero-2"], curves["plain"], rtol=1e-4)
    np.testing.assert_allclose(curves["zero-3"], curves["plain"], rtol=1e-4)


def test_a_run_without_pairs_is_a_user_error(tmp_path: Path) -> None:
    settings = load("scenes", [f"run_dir={tmp_path}"])
    with pytest.raises(UserError, match="run `spatialt2i preferences build` first"):
        train_reward(settings)
    with pytest.raises(UserError, match="run `spatialt2i preferences build` first"):
        evaluate_reward(settings)
    published = load("scenes", [f"run_dir={tmp_path}", f"reward.pairs={tmp_path / 'version'}"])
    with pytest.raises(UserError, match=r"reward\.pairs must be a published version"):
        train_reward(published)


def _metrics(settings: Settings) -> list[dict[str, float]]:
    return [json.loads(line) for line in run_paths(settings).reward_metrics.read_text().splitlines()]


def _with_the_same_pairs(settings: Settings, name: str) -> Settings:
    """Another run with a copy of the pairs."""
    run = replace(settings, run_dir=str(Path(settings.run_dir) / name))
    shutil.copytree(run_paths(settings).preferences, run_paths(run).preferences)
    return run


class _WorkerKiller:
    """A `log` function that kills one Ray Train worker of this test with SIGKILL after a step, once."""

    def __init__(self, step: int) -> None:
        self.step, self.killed = step, 0

    def __call__(self, line: str) -> None:
        if f"reward step {self.step}/" not in line or self.killed:
            return
        *_, worker = titled(psutil.Process().children(recursive=True), "RayTrainWorker")
        worker.kill()
        self.killed = worker.pid

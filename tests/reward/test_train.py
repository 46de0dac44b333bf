"""Stage 2 as a whole on a few dozen pairs: Ray Train, resuming, held-out accuracy, the doctor, DeepSpeed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch

from conf.load import load
from conf.reward import RewardSettings, SpatialScoreSettings
from conf.settings import Settings
from pipelines.preferences.dataset.schema import to_table
from pipelines.preferences.roles.base import ImagePair, RowSpec
from pipelines.preferences.roles.scenes import SceneGenerator, ScenePerturber, SceneReviewer, SceneWriter
from pipelines.reward.data import Pair
from pipelines.reward.evaluate import evaluate_reward
from pipelines.reward.fit import RewardFitter, learning_rate, restore
from pipelines.reward.sampler import RankInfo
from pipelines.reward.sanity_checks import run_sanity_checks
from pipelines.reward.train import train_reward
from tests.support.kill import titled
from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore

ROWS, TEST_ROWS = 64, 16
TINY = (
    "reward.batch_size=8", "reward.epochs=1", "reward.lr=3e-3", "reward.loss=bt", "reward.workers=2",
    "reward.threads_per_worker=1", "reward.cpus_per_worker=0.5", "reward.use_gpu=false", "reward.log_every=1",
    "reward.checkpoint_every=2",
)  # fmt: skip


def _painted(count: int) -> list[ImagePair]:
    tasks = [RowSpec(index, "exploit" if index % 4 == 0 else "perturbed", index) for index in range(count)]
    return SceneGenerator().generate(ScenePerturber().perturb(SceneWriter().write(tasks)))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A run with 64 pairs, 16 of them held out, and a random backbone."""
    save_tiny_vlm(tmp_path / "vlm")
    pairs = _painted(ROWS)
    splits = ["test" if index < TEST_ROWS else "train" for index in range(ROWS)]
    table = to_table(pairs, SceneReviewer().review(pairs), splits, "test")
    (tmp_path / "preferences").mkdir()
    for shard in range(2):
        pq.write_table(table.slice(shard * 32, 32), tmp_path / "preferences" / f"{shard}.parquet")
    return Settings(
        run_dir=str(tmp_path),
        spatialscore=SpatialScoreSettings(model=str(tmp_path / "vlm")),
        reward=RewardSettings(batch_size=8, epochs=2, workers=2, checkpoint_every=4, log_every=1, shuffle_rows=16),
    )


@pytest.mark.ray
@pytest.mark.slow
def test_stage_two_trains_survives_a_killed_worker_measures_and_examines(ray_cluster: None, settings: Settings) -> None:
    """The killed run ends with the undisturbed one's weights, bit for bit."""
    lines: list[str] = []
    result = train_reward(settings, lines.append)
    assert (result.pairs, result.steps, result.unreadable) == (48, 12, 0)
    assert np.isfinite(result.loss)
    assert "reward step 12/12" in lines[-1]
    curve = _metrics(settings)
    assert [row["step"] for row in curve] == list(range(1, 13))
    assert {"margin", "sigma", "lr", "mfu", "pairs_per_second", "accuracy/1 changed", "accuracy/left of"} <= {
        name for row in curve for name in row
    }
    report = evaluate_reward(settings)
    overall = report.models[0].accuracies.overall
    assert overall is not None and overall.pairs == TEST_ROWS
    saved = json.loads((Path(settings.run_dir) / "reward/evaluation.json").read_text())
    assert saved["models"][0]["accuracies"]["overall"]["pairs"] == TEST_ROWS
    card = (Path(settings.run_dir) / "reward/model/README.md").read_text()
    assert "| all pairs |" in card and "48 pairs, 12 optimizer steps" in card
    checks = {check.name: check for check in run_sanity_checks(settings)}
    assert checks["save and load"].passed and checks["LoRA"].passed and checks["spread"].passed
    assert {"noise image", "2 x 2", "image size"} <= set(checks)
    again = train_reward(settings, lines.append)  # finished already: nothing is trained anew
    assert again.loss == result.loss

    wounded, wound = _beside(settings, "wounded"), _Wound(step=9)  # in mid-epoch; checkpoints: steps 4, 6 and 8
    train_reward(wounded, wound)
    assert wound.killed
    for name in ("adapter_model.safetensors", "head.safetensors"):
        whole, mended = (Path(run.run_dir) / "reward/model" / name for run in (settings, wounded))
        assert whole.read_bytes() == mended.read_bytes(), name
    rows = _metrics(wounded)
    assert [(row["step"], row["loss"]) for row in rows] == [(row["step"], row["loss"]) for row in curve]


@pytest.mark.ray
@pytest.mark.slow
def test_zero_two_zero_three_and_one_plain_process_agree_on_the_loss_curve(
    ray_cluster: None, settings: Settings
) -> None:
    """The command `reward train flux_dev` with tiny sizes, two gloo workers, one of which is killed in between.

    ZeRO-3 shards every parameter.
    """
    tiny = load("flux_dev", TINY).reward
    curves = {}
    for name, changes in {
        "plain": {"engine": "torch", "workers": 1},
        "zero-2": {"zero_stage": 2},
        "zero-3": {"zero_stage": 3, "param_persistence_threshold": 0},
    }.items():
        run, wound = replace(_beside(settings, name), reward=replace(tiny, **changes)), _Wound(step=5)
        train_reward(run, print if name == "plain" else wound)
        assert wound.killed or name == "plain"
        curves[name] = [(row["loss"], row["grad_norm"]) for row in _metrics(run)]
        checks = {check.name: check for check in run_sanity_checks(run)}
        assert checks["LoRA"].passed and checks["save and load"].passed
    assert len(curves["plain"]) == 6
    np.testing.assert_allclose(curves["zero-2"], curves["plain"], rtol=1e-4)
    np.testing.assert_allclose(curves["zero-3"], curves["plain"], rtol=1e-4)


def test_a_few_steps_on_the_same_pairs_learn_them(tmp_path: Path) -> None:
    """The loop's inside, without Ray: it lowers the loss, and goes on from a saved state as if never interrupted."""
    save_tiny_vlm(tmp_path)
    pairs = [_pair(painted) for painted in _painted(8)]
    settings = RewardSettings(batch_size=8, workers=1, mirror=False, lr=3e-3)
    fitter = RewardFitter(tiny_spatialscore(tmp_path), settings, torch.device("cpu"))
    losses = []
    for number in range(12):
        if number == 6:
            saved = fitter.state_dict(), fitter.engine.state_dict()
            model = restore(tiny_spatialscore(tmp_path), saved[0])
            fitter = RewardFitter(model, settings, torch.device("cpu"))
            fitter.engine.load_state_dict(saved[1])
        losses.append(fitter.step(pairs, number, 40).loss)
    assert losses[-1] < 0.5 * losses[0]
    whole = RewardFitter(tiny_spatialscore(tmp_path), settings, torch.device("cpu"))
    for number in range(12):
        last = whole.step(pairs, number, 40).loss
    assert last == pytest.approx(losses[-1], rel=1e-4)


def test_the_noise_of_the_sampled_loss_does_not_depend_on_the_ranks(tmp_path: Path) -> None:
    """Two ranks with half of the pairs each see the losses that one rank sees, comparison by comparison."""
    save_tiny_vlm(tmp_path)
    pairs = [replace(_pair(painted), pair_id=str(number)) for number, painted in enumerate(_painted(6))]
    settings = RewardSettings(batch_size=6, workers=1, mirror=False, loss="sampled", sigma_draws=20)
    whole, *parts = (
        RewardFitter(tiny_spatialscore(tmp_path), settings, torch.device("cpu"), rank).step(share, 3, 40).loss
        for rank, share in ((RankInfo(0, 1), pairs), (RankInfo(0, 2), pairs[:3]), (RankInfo(1, 2), pairs[3:]))
    )
    counts = [sum(2 if pair.perturbed_prompt else 1 for pair in share) for share in (pairs[:3], pairs[3:])]
    assert whole == pytest.approx(np.average(parts, weights=counts), rel=1e-4)


def test_the_learning_rate_warms_up_and_falls() -> None:
    settings = RewardSettings(lr=1e-3, warmup_fraction=0.1, final_lr_fraction=0.2)
    rates = [learning_rate(settings, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(2e-4, rel=0.02)
    assert learning_rate(replace(settings, final_lr_fraction=1.0), 99, 100) == pytest.approx(1e-3)


def _metrics(settings: Settings) -> list[dict[str, float]]:
    lines = (Path(settings.run_dir) / "reward/metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _beside(settings: Settings, name: str) -> Settings:
    """Another run with the same pairs."""
    folder = Path(settings.run_dir) / name
    shutil.copytree(Path(settings.run_dir) / "preferences", folder / "preferences")
    return replace(settings, run_dir=str(folder))


class _Wound:
    """SIGKILLs one of this test's Ray Train workers after a step, once, as a lost machine would."""

    def __init__(self, step: int) -> None:
        self.step, self.killed = step, 0

    def __call__(self, line: str) -> None:
        if f"reward step {self.step}/" not in line or self.killed:
            return
        *_, worker = titled(psutil.Process().children(recursive=True), "RayTrainWorker")
        worker.kill()
        self.killed = worker.pid


def _pair(painted: ImagePair) -> Pair:
    draft = painted.draft
    return Pair(
        "", draft.prompt.text, draft.perturbed.text if draft.perturbed else None, painted.winner.pixels(),
        painted.loser.pixels(), draft.task.kind, len(draft.changes),
    )  # fmt: skip

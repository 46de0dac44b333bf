"""The loop of a stage 2 worker, alone and without a cluster: what it reports and saves, and how it goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray.train import Checkpoint
from safetensors.torch import load_file

from actors.spatialscore import SpatialScoreConfig
from conf.reward import RewardSettings
from pipelines.preferences.roles.base import RowSpec
from pipelines.reward import worker
from pipelines.reward.job import WorkerJob
from pipelines.reward.sampler import PairSampler, RankInfo, make_sampler
from pipelines.reward.unreadable import UnreadableRow
from tests.support.pair_sources import source_of
from tests.support.scene_pairs import scene_pairs, write_scene_pairs
from tests.support.tiny_reward import decoded, save_tiny_vlm

STEPS, BATCH = 8, 4


@dataclass
class Reports:
    """Stands for Ray Train: one rank, whose reports it keeps."""

    folder: Path
    resume: Path | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def get_context(self) -> Any:
        """The context of the only rank."""
        return SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)

    def get_checkpoint(self) -> Checkpoint | None:
        """The checkpoint that the fit starts from."""
        return Checkpoint.from_directory(self.resume) if self.resume else None

    def report(self, metrics: dict[str, Any], checkpoint: Checkpoint) -> None:
        """Keeps a report, and a copy of its checkpoint."""
        self.metrics.append(metrics)
        shutil.copytree(checkpoint.path, self.folder / str(metrics["step"]))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> WorkerJob:
    """Eight optimizer steps in two epochs."""
    folder = tmp_path_factory.mktemp("worker")
    save_tiny_vlm(folder / "vlm")
    write_scene_pairs(folder / "preferences", 20)
    settings = RewardSettings(
        batch_size=BATCH, epochs=2, workers=1, log_every=2, checkpoint_every=3, evaluate_pairs=4, keep="best", loss="bt"
    )
    sampler = make_sampler(source_of(folder / "preferences"), BATCH, 2, 16, 0)
    assert sampler.steps == STEPS
    config = SpatialScoreConfig(model=str(folder / "vlm"), pixels=4096)
    return WorkerJob(settings, config, False, False, sampler, str(folder))


def _run(job: WorkerJob, reports: Reports, monkeypatch: pytest.MonkeyPatch, unreadable: int = -1) -> None:
    """Runs the loop. No pair of the optimizer step `unreadable` can be read."""
    pairs = [decoded(pair) for pair in scene_pairs([RowSpec(i, "perturbed", i) for i in range(STEPS * BATCH)])]

    def rows_of_steps(_: Any, sampler: PairSampler, rank: RankInfo, first: int, bounds: Any) -> Iterator[Any]:
        for step in range(first, sampler.steps):
            rows = pairs[step * BATCH : (step + 1) * BATCH]
            yield [UnreadableRow(row.pair_id, "broken") for row in rows] if step == unreadable else rows

    monkeypatch.setattr(worker, "rows_of_steps", rows_of_steps)
    for name in ("get_context", "get_checkpoint", "report"):
        monkeypatch.setattr(f"ray.train.{name}", getattr(reports, name))
    lines: Any = SimpleNamespace(put=SimpleNamespace(remote=lambda line: None))
    worker.train_loop_per_worker({"job": job, "lines": lines, "readers": None})


def test_a_fit_saves_its_best_model_and_goes_on_from_a_checkpoint_bit_for_bit(
    job: WorkerJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Reports(tmp_path / "whole")
    _run(job, whole, monkeypatch)
    assert [metrics["step"] for metrics in whole.metrics] == [3, 4, 6, 8]
    rows = [json.loads(line) for line in Path(job.run_dir, "reward", "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    assert [row["step"] for row in rows if "held_out_accuracy" in row] == [4, 8]
    exported = [step for step in (3, 4, 6, 8) if (tmp_path / "whole" / str(step) / worker.MODEL_FOLDER).exists()]
    assert exported == [8], "the finished model is in the last checkpoint only"

    rest = Reports(tmp_path / "rest", resume=tmp_path / "whole" / "6")
    _run(job, rest, monkeypatch)
    assert [metrics["step"] for metrics in rest.metrics] == [8]
    for name in ("adapter_model.safetensors", "head.safetensors"):
        first, again = (load_file(tmp_path / run / "8" / worker.MODEL_FOLDER / name) for run in ("whole", "rest"))
        assert all(torch.equal(value, again[key]) for key, value in first.items())

    finished = Reports(tmp_path / "finished", resume=tmp_path / "whole" / "8")
    _run(job, finished, monkeypatch)
    assert finished.metrics == [], "there is nothing left to do"


def test_a_fit_ends_with_the_reason_if_too_many_pairs_cannot_be_read(
    job: WorkerJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = Reports(tmp_path / "refused")
    _run(job, reports, monkeypatch, unreadable=0)
    assert [metrics["step"] for metrics in reports.metrics] == [2]
    assert reports.metrics[0][worker.REFUSAL].startswith("4 of 8 pairs cannot be read")
    assert not (tmp_path / "refused" / "2" / worker.MODEL_FOLDER).exists()

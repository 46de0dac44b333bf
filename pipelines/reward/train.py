"""Stage 2: Ray Train fits SpatialScore on the preference pairs."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import ray.data
import ray.train
import torch
from ray.actor import ActorHandle
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from actors.process import actor_options, set_up_process
from actors.spatialscore import SpatialScoreConfig, build
from conf.flux import EMBEDDED
from conf.reward import RewardSettings
from conf.settings import Settings
from pipelines.progress import relayed
from pipelines.reward.data import count_rows, decode_batch, training_rows
from pipelines.reward.fit import FitStep, RewardFitter
from pipelines.reward.locations import model_config, model_folder, preferences_folder, reward_folder

PROGRESS_SECONDS = 5.0


@dataclass(frozen=True)
class RewardResult:
    """What `train_reward` made."""

    model: Path  # SpatialScore directory
    pairs: int  # pairs of the training split
    steps: int
    loss: float  # of the last steps
    accuracy: float  # of the last steps, on training pairs
    seconds: float


@dataclass(frozen=True)
class WorkerJob:
    """What every Ray Train worker is started with."""

    settings: RewardSettings
    config: SpatialScoreConfig
    gradient_checkpointing: bool
    include_backbone: bool
    steps_per_epoch: int


def train_reward(settings: Settings, say: Callable[[str], None] = print) -> RewardResult:
    """Fits SpatialScore on the run's preference pairs and writes it to <run_dir>/reward/model.

    `say` gets a line of progress every few seconds. An interrupted run with the same settings and pairs goes on from
    its last checkpoint. Ray must be initialised.
    Raises ValueError where there are no pairs, or fewer than one batch.
    """
    start, reward = time.monotonic(), settings.reward
    folder = preferences_folder(settings)
    pairs = count_rows(folder, "train")
    per_worker = reward.batch_size // reward.workers
    job = WorkerJob(
        reward, model_config(settings), settings.spatialscore.gradient_checkpointing,
        settings.spatialscore.model == EMBEDDED, pairs // reward.workers // per_worker,
    )  # fmt: skip
    if not job.steps_per_epoch:
        raise ValueError(f"reward.batch_size={reward.batch_size} exceeds the {pairs} training pairs: lower it")
    with relayed(say) as lines:
        result = _trainer(job, training_rows(folder, reward.seed), lines, reward_folder(settings), pairs).fit()
    assert result.checkpoint is not None and result.metrics is not None
    with result.checkpoint.as_directory() as saved:
        _replace(Path(saved) / "model", model_folder(settings))
    metrics, steps = result.metrics, reward.epochs * job.steps_per_epoch
    seconds = time.monotonic() - start
    return RewardResult(model_folder(settings), pairs, steps, metrics["loss"], metrics["accuracy"], seconds)


def _trainer(job: WorkerJob, rows: ray.data.Dataset, lines: ActorHandle, folder: Path, pairs: int) -> TorchTrainer:
    settings = job.settings
    resources = {"CPU": settings.cpus_per_worker, **({"GPU": 1} if settings.use_gpu else {})}
    return TorchTrainer(
        _work,
        train_loop_config={"job": job, "lines": lines},
        datasets={"train": rows},
        torch_config=TorchConfig(backend="nccl" if settings.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=settings.workers, use_gpu=settings.use_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=f"train-{_digest(job, pairs)}",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=settings.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            worker_runtime_env=actor_options(settings.threads_per_worker, 0, 0)["runtime_env"],
        ),
    )


def _work(loop: dict[str, Any]) -> None:
    """A Ray Train worker: batches of its shard through a RewardFitter, with checkpoints and a progress line."""
    job: WorkerJob = loop["job"]
    settings, rank = job.settings, ray.train.get_context().get_world_rank()
    device = set_up_process(settings.threads_per_worker, 1.0 if settings.use_gpu else 0.0)
    torch.manual_seed(settings.seed)  # the same head and LoRA on every rank
    model = build(job.config, gradient_checkpointing=job.gradient_checkpointing)
    fitter = RewardFitter(model, settings, device, rank)
    done = _restore(fitter, rank)
    steps = settings.epochs * job.steps_per_epoch
    shard = ray.train.get_dataset_shard("train")
    assert shard is not None
    progress = _Progress(loop["lines"] if rank == 0 else None, done, steps, settings.batch_size)
    for epoch in range(done // job.steps_per_epoch, settings.epochs):
        batches = shard.iter_batches(
            batch_size=settings.batch_size // settings.workers, batch_format="numpy", drop_last=True,
            local_shuffle_buffer_size=settings.shuffle_rows, local_shuffle_seed=settings.seed + epoch,
        )  # fmt: skip
        for number, rows in zip(range(epoch * job.steps_per_epoch, steps), batches, strict=False):
            if number < done:
                continue  # seen before the interruption
            progress.add(number + 1, fitter.step(decode_batch(cast(dict, rows)), number, steps))
            last = (number + 1) % job.steps_per_epoch == 0
            if last or (number + 1) % settings.checkpoint_every == 0:
                _report(fitter, rank, number + 1, progress, job if number + 1 == steps else None)
            if last:
                break


def _report(fitter: RewardFitter, rank: int, done: int, progress: _Progress, finished: WorkerJob | None) -> None:
    """Hands Ray Train the metrics and a checkpoint; the last one holds the finished SpatialScore directory."""
    with tempfile.TemporaryDirectory() as folder:
        torch.save(fitter.engine.state_dict(), Path(folder) / f"engine-{rank}.pt")
        if rank == 0:
            torch.save({"done": done, "trained": fitter.state_dict()}, Path(folder) / "fit.pt")
            if finished:
                fitter.model.save_pretrained(Path(folder) / "model", include_backbone=finished.include_backbone)
        metrics = {"step": done, "loss": progress.loss, "accuracy": progress.accuracy}
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


def _restore(fitter: RewardFitter, rank: int) -> int:
    """Goes back to the newest checkpoint, where there is one. Returns the number of steps done."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as folder:
        saved = torch.load(Path(folder) / "fit.pt", weights_only=True)
        fitter.load_state_dict(saved["trained"])
        fitter.engine.load_state_dict(torch.load(Path(folder) / f"engine-{rank}.pt", weights_only=True))
    return int(saved["done"])


class _Progress:
    """Running means, and on rank 0 a line every few seconds."""

    def __init__(self, lines: ActorHandle | None, done: int, steps: int, batch: int) -> None:
        self._lines, self._steps, self._batch = lines, steps, batch
        self._start, self._first, self._said = time.monotonic(), done, time.monotonic()
        self.loss, self.accuracy = 0.0, 0.0

    def add(self, done: int, step: FitStep) -> None:
        weight = max(0.05, 1.0 / (done - self._first))
        self.loss += weight * (step.loss - self.loss)
        self.accuracy += weight * (step.accuracy - self.accuracy)
        now = time.monotonic()
        if self._lines is None or (now - self._said < PROGRESS_SECONDS and done < self._steps):
            return
        self._said = now
        rate = (done - self._first) * self._batch / (now - self._start)
        line = f"reward step {done}/{self._steps}  loss {self.loss:.3f}  pairs right {self.accuracy:.3f}"
        self._lines.put.remote(f"{line}  {rate:.0f} pairs/s")


def _digest(job: WorkerJob, pairs: int) -> str:
    """Names the Ray Train run, so that only a run of the same kind is resumed."""
    return hashlib.sha256(json.dumps([asdict(job), pairs], sort_keys=True).encode()).hexdigest()[:10]


def _replace(source: Path, target: Path) -> None:
    """Puts a copy of `source` at `target`, complete or not at all."""
    partial, old = target.with_name(f"{target.name}.partial"), target.with_name(f"{target.name}.old")
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(source, partial)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)

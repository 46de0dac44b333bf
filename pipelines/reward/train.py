"""Stage 2: Ray Train fits SpatialScore on the preference pairs."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from ray.actor import ActorHandle
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from actors.files import write_folder
from actors.worker_setup import actor_options
from conf.flux import EMBEDDED
from conf.settings import Settings
from pipelines.common.paths import model_folder, preferences_folder, reward_folder
from pipelines.common.worker_log import relay_lines
from pipelines.preferences.dataset.verify import verify
from pipelines.reward.sampler import make_sampler
from pipelines.reward.served_model import model_config
from pipelines.reward.worker import WorkerJob, train_loop_per_worker


@dataclass(frozen=True)
class RewardResult:
    """What `train_reward` made."""

    model: Path  # SpatialScore directory
    pairs: int  # pairs of the training split
    steps: int
    loss: float  # of the last steps
    accuracy: float  # of the last steps, on training pairs
    unreadable: int  # rows that could not be read; <run_dir>/reward/unreadable.jsonl names them
    seconds: float


def train_reward(settings: Settings, log: Callable[[str], None] = print) -> RewardResult:
    """Fits SpatialScore on the run's preference pairs and writes it to <run_dir>/reward/model.

    `log` gets lines of progress. An interrupted run with the same settings and pairs goes on from its last checkpoint,
    and ends with the weights of an undisturbed one. Ray must be initialised.
    Raises ValueError where there are no pairs, fewer than one batch, or a published version is not as it was.
    """
    start, reward, folder = time.monotonic(), settings.reward, reward_folder(settings)
    if reward.pairs:
        verify(reward.pairs, log)
    order = make_sampler(
        preferences_folder(settings), reward.batch_size, reward.epochs, reward.shuffle_rows, reward.seed
    )
    folder.mkdir(parents=True, exist_ok=True)
    job = WorkerJob(
        reward, model_config(settings), settings.spatialscore.gradient_checkpointing,
        settings.spatialscore.model == EMBEDDED, order, str(folder),
    )  # fmt: skip
    with relay_lines(log) as lines:
        result = _trainer(job, lines, folder).fit()
    assert result.checkpoint is not None and result.metrics is not None
    with result.checkpoint.as_directory() as saved:
        write_folder(
            model_folder(settings), lambda folder: shutil.copytree(Path(saved) / "model", folder, dirs_exist_ok=True)
        )
    loss, accuracy, unreadable = (result.metrics[name] for name in ("loss", "accuracy", "unreadable"))
    seconds = time.monotonic() - start
    return RewardResult(model_folder(settings), order.pairs, order.steps, loss, accuracy, int(unreadable), seconds)


def _trainer(job: WorkerJob, lines: ActorHandle, folder: Path) -> TorchTrainer:
    settings = job.settings
    resources = {"CPU": settings.cpus_per_worker, **({"GPU": 1} if settings.use_gpu else {})}
    workers = (settings.min_workers, settings.workers) if settings.min_workers else settings.workers
    return TorchTrainer(
        train_loop_per_worker,
        train_loop_config={"job": job, "lines": lines},
        torch_config=TorchConfig(backend="nccl" if settings.use_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=settings.use_gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=f"train-{_digest(job)}",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=settings.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            worker_runtime_env=actor_options(settings.threads_per_worker, 0, 0)["runtime_env"],
        ),
    )


def _digest(job: WorkerJob) -> str:
    """Names the Ray Train run, so that only a run of the same kind is resumed."""
    return hashlib.sha256(json.dumps(asdict(job), sort_keys=True).encode()).hexdigest()[:10]

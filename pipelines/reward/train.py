"""Stage 2: trains SpatialScore on the preference pairs with Ray Train."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from actors.folders import require_replaceable, write_folder
from actors.worker_setup import actor_options
from conf.flux import EMBEDDED
from conf.reward import RewardSettings
from conf.settings import Settings
from pipelines.common.fingerprints import digest_of
from pipelines.common.models import check_model
from pipelines.common.paths import RunPaths, run_paths
from pipelines.common.progress_line import ProgressLine
from pipelines.common.resource_wait import logging_waits
from pipelines.common.resources import ResourceRequest, check_requests
from pipelines.common.run_lookup import record_settings
from pipelines.common.tracking import TrackedLog, tracking
from pipelines.common.worker_log import relay_lines
from pipelines.preferences.dataset.verify import verify
from pipelines.reward.data import require_pairs
from pipelines.reward.fit_errors import out_of_memory_explained
from pipelines.reward.job import WorkerJob
from pipelines.reward.locations import pair_source
from pipelines.reward.readers import start_readers
from pipelines.reward.sampler import PairSampler, make_sampler
from pipelines.reward.served_model import model_config
from pipelines.reward.unreadable import refusal
from pipelines.reward.worker import MODEL_FOLDER, REFUSAL, train_loop_per_worker

MAY_CHANGE = (
    *("workers", "min_workers", "threads_per_worker", "cpus_per_worker", "readers", "use_gpu", "peak_tflops"),
    *("engine", "zero_stage", "param_persistence_threshold", "log_every", "checkpoint_every", "max_failures"),
    "micro_batch_size",
)
"""Settings of `reward` with which a fit may be resumed: they change its weights by rounding only."""


@dataclass(frozen=True)
class RewardResult:
    """The result of `train_reward`."""

    model: Path  # SpatialScore directory
    pairs: int  # pairs of the training split
    steps: int  # optimizer steps; fewer than planned if `reward.patience` ended the fit
    loss: float  # mean since the last report
    accuracy: float  # mean since the last report, on training pairs
    unreadable: int  # rows that could not be read; <run_dir>/reward/unreadable.jsonl lists them
    seconds: float


def train_reward(settings: Settings, log: Callable[[str], None] = print) -> RewardResult:
    """Trains SpatialScore on the run's preference pairs: read -> sample -> fit -> save.

    Writes <run_dir>/reward/model. `log` takes lines of progress. An interrupted run with the same settings and pairs
    resumes from its last checkpoint, and ends with the same weights as an undisturbed one. Ray must be initialized.
    Raises UserError if there are no training pairs, if pairs wait for review, if too many of them cannot be read, or if
    a published version is damaged, SettingsError if the pairs do not fill one batch. UserError, too, if the folder of
    the model holds files of others only, or if the GPU of a worker is out of memory.
    """
    start, reward, paths = time.monotonic(), settings.reward, run_paths(settings)
    require_replaceable(paths.reward_model)
    for version in reward.pairs:
        verify(version, log)
    source = pair_source(settings)
    require_pairs(source)
    sampler = make_sampler(source, reward.batch_size, reward.epochs, reward.shuffle_rows, reward.seed)
    check_model(settings, "spatialscore.model", settings.spatialscore.model, "config.json")
    check_requests(settings, [worker_request(reward)])
    record_settings(settings, "reward")
    job = _make_job(settings, sampler, paths)
    with track_fit(settings):
        result = _fit(job, paths, log)
    assert result.checkpoint is not None and result.metrics is not None
    if left_out := result.metrics.get(REFUSAL):
        shutil.rmtree(paths.reward / fit_name(job))  # after a repair of the files, the fit starts from the beginning
        raise refusal(left_out, sampler.source.name)
    _save_model(result.checkpoint, paths.reward_model)
    return RewardResult(
        model=paths.reward_model,
        pairs=sampler.pairs,
        steps=int(result.metrics["step"]),
        loss=result.metrics.get("loss", math.nan),
        accuracy=result.metrics.get("accuracy", math.nan),
        unreadable=int(result.metrics["unreadable"]),
        seconds=time.monotonic() - start,
    )


def track_fit(settings: Settings) -> AbstractContextManager[None]:
    """Sends the rows of a fit to the trackers of `tracking.trackers` inside the block."""
    paths = run_paths(settings)
    logs = (TrackedLog(paths.reward_metrics, "reward", "step"),)
    return tracking(settings, paths, "reward", logs, ("reward", "spatialscore"))


def worker_request(reward: RewardSettings) -> ResourceRequest:
    """The workers without which a fit cannot start."""
    return ResourceRequest(
        role="workers of stage 2",
        count=reward.min_workers or reward.workers,
        cpus=reward.cpus_per_worker,
        gpus=1.0 if reward.use_gpu else 0.0,
        node_group="",
        hint="reward.workers or reward.cpus_per_worker",
    )


def _make_job(settings: Settings, sampler: PairSampler, paths: RunPaths) -> WorkerJob:
    return WorkerJob(
        settings=settings.reward,
        config=model_config(settings),
        gradient_checkpointing=settings.spatialscore.gradient_checkpointing,
        include_backbone=settings.spatialscore.model == EMBEDDED,
        sampler=sampler,
        run_dir=str(paths.root),
    )


def _fit(job: WorkerJob, paths: RunPaths, log: Callable[[str], None]) -> Result:
    """Runs the workers to the end of the fit, and restarts them after failures."""
    paths.reward.mkdir(parents=True, exist_ok=True)
    with ProgressLine("reward", log) as progress:

        def show(line: str) -> None:
            progress.log(line)
            progress.wait("fitting: since the last line")

        progress.phase(f"fitting SpatialScore, {job.sampler.steps} optimizer steps: starting the workers")
        readers = start_readers(job.sampler, job.settings.readers)
        try:
            waits = logging_waits([worker_request(job.settings)], progress.log)
            with relay_lines(show) as lines, waits, out_of_memory_explained(job.settings):
                return _trainer(job, lines, readers, paths.reward).fit()
        finally:
            ray.kill(readers)


def _trainer(job: WorkerJob, lines: ActorHandle[Any], readers: ActorHandle[Any], storage: Path) -> TorchTrainer:
    settings = job.settings
    resources = {"CPU": settings.cpus_per_worker, **({"GPU": 1} if settings.use_gpu else {})}
    workers = (settings.min_workers, settings.workers) if settings.min_workers else settings.workers
    return TorchTrainer(
        train_loop_per_worker,
        train_loop_config={"job": job, "lines": lines, "readers": readers},
        torch_config=TorchConfig(backend="nccl" if settings.use_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=settings.use_gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=fit_name(job),
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=settings.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            worker_runtime_env=actor_options(settings.threads_per_worker, 0, 0)["runtime_env"],
        ),
    )


def fit_name(job: WorkerJob) -> str:
    """The name of a fit, and of its folder. Ray Train resumes a run by its name.

    It does not depend on what cannot change the weights, up to rounding, so a fit goes on with other workers or with
    gradient checkpointing.
    """
    default = RewardSettings()
    settings = replace(job.settings, **{name: getattr(default, name) for name in MAY_CHANGE})
    config = replace(job.config, attention="sdpa")
    return (
        f"train-{digest_of(asdict(replace(job, settings=settings, config=config, gradient_checkpointing=False)))[:10]}"
    )


def _save_model(checkpoint: Checkpoint, target: Path) -> None:
    """Copies the finished SpatialScore directory from the last checkpoint."""
    with checkpoint.as_directory() as folder:
        source = Path(folder) / MODEL_FOLDER
        write_folder(target, lambda partial: shutil.copytree(source, partial, dirs_exist_ok=True))

"""A Ray Train worker of stage 2: its share of every batch, checkpoints and reports."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint

from actors.spatialscore import build
from actors.spatialscore.card import TrainingInfo
from actors.worker_setup import init_worker
from pipelines.reward.data import read_rows
from pipelines.reward.fit import RewardFitter, restore
from pipelines.reward.fit_log import FitLog
from pipelines.reward.job import WorkerJob
from pipelines.reward.sampler import RankInfo, rows_of_steps
from pipelines.reward.train_metrics import RowCount, TrainMetrics, over_workers

MODEL_FOLDER = "model"
"""Folder of the last checkpoint that holds the finished SpatialScore directory."""

REFUSAL = "refusal"
"""Name of a report's text that tells why the fit stopped before its end; empty if it did not."""

_STATE_FILE = "fit.pt"


def train_loop_per_worker(loop: dict[str, Any]) -> None:
    """Fits `loop["job"]`, a WorkerJob, from the newest checkpoint on. Log lines go to the actor `loop["lines"]`."""
    job: WorkerJob = loop["job"]
    settings, sampler = job.settings, job.sampler
    rank = RankInfo(ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size())
    device = init_worker(settings.threads_per_worker, 1.0 if settings.use_gpu else 0.0)
    torch.manual_seed(settings.seed)  # the same initial head and LoRA on every rank
    model, saved = build(job.config, gradient_checkpointing=job.gradient_checkpointing), _newest_checkpoint()
    fitter = RewardFitter(restore(model, saved["trained"]) if saved else model, settings, device, rank)
    if saved:
        fitter.engine.load_state_dict(saved["engine"])
    done = int(saved["done"]) if saved else 0
    log = FitLog(loop["lines"], job, rank, device, done) if rank.rank == 0 else None
    metrics, processor, read = TrainMetrics(), fitter.processor, RowCount()
    for step, rows in enumerate(rows_of_steps(sampler, rank, done), start=done):
        decoded = read_rows(rows, processor.template.encode, processor.useful_pixels)
        metrics.unreadable += decoded.unreadable
        result = fitter.optimizer_step(decoded.pairs, step, sampler.steps, metrics)
        if log:
            log.step(step + 1)
        epoch_ends = (step + 1) % sampler.steps_per_epoch == 0
        if (step + 1) % settings.log_every == 0 or epoch_ends:
            total, metrics = over_workers(metrics), TrainMetrics()
            read.add(total)
            if log:
                log.add(step + 1, total, {"lr": result.lr, "grad_norm": result.grad_norm})
            if read.too_many:
                _save_checkpoint(fitter, step + 1, log, job, refusal=read.message)
                return
        if (step + 1) % settings.checkpoint_every == 0 or epoch_ends:
            _save_checkpoint(fitter, step + 1, log, job)


def _save_checkpoint(fitter: RewardFitter, done: int, log: FitLog | None, job: WorkerJob, refusal: str = "") -> None:
    """Reports rank 0's metrics and checkpoint to Ray Train. The last one holds the finished SpatialScore directory.

    `refusal`: why the fit stops here; Ray Train keeps only the metrics that come with a checkpoint.
    """
    engine, trained = fitter.engine.state_dict(), fitter.state_dict()  # every rank takes part
    if log is None:
        ray.train.report({})
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"done": done, "trained": trained, "engine": engine}, Path(folder) / _STATE_FILE)
        if done == job.sampler.steps:
            model = restore(build(job.config), trained)  # the fitter's model may be sharded
            training = TrainingInfo(job.settings.loss, job.sampler.pairs, job.sampler.steps)
            model.save_pretrained(Path(folder) / MODEL_FOLDER, include_backbone=job.include_backbone, training=training)
        ray.train.report({"step": done, **log.latest, REFUSAL: refusal}, checkpoint=Checkpoint.from_directory(folder))


def _newest_checkpoint() -> dict[str, Any] | None:
    """The state that `_save_checkpoint` saved last; None at a fresh start."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return torch.load(Path(folder) / _STATE_FILE, weights_only=True)

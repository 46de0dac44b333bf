"""A Ray Train worker of stage 2: its share of every batch, checkpoints and reports."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint

from actors.spatialscore import build
from actors.spatialscore.card import TrainingInfo
from actors.worker_setup import init_worker
from pipelines.reward.data import Pair, checked
from pipelines.reward.fit import FitStep, PreparedStep, RewardFitter, restore
from pipelines.reward.fit_log import FitLog
from pipelines.reward.fit_schedule import FitSchedule
from pipelines.reward.job import WorkerJob
from pipelines.reward.prefetch import prefetched
from pipelines.reward.readers import Rows, rows_of_steps
from pipelines.reward.sampler import RankInfo
from pipelines.reward.train_metrics import RowCount, TrainMetrics, over_workers
from pipelines.reward.unreadable import UnreadableRow
from pipelines.reward.validation import BestWeights, Validation

MODEL_FOLDER = "model"
"""Folder of the last checkpoint that holds the finished SpatialScore directory."""

REFUSAL = "refusal"
"""Name of a report's text that tells why the fit stopped before its end; empty if it did not."""

_STATE_FILE = "fit.pt"


@dataclass(frozen=True)
class _Input:
    """What a thread prepares for one optimizer step."""

    prepared: PreparedStep
    unreadable: list[UnreadableRow]


class _Worker:
    """One rank of a fit."""

    def __init__(self, job: WorkerJob, lines: Any) -> None:
        """Builds the model, and restores the newest checkpoint."""
        self.job, settings = job, job.settings
        context = ray.train.get_context()
        self.rank = RankInfo(context.get_world_rank(), context.get_world_size())
        device = init_worker(settings.threads_per_worker, 1.0 if settings.use_gpu else 0.0)
        torch.manual_seed(settings.seed)  # the same initial head and LoRA on every rank
        model, saved = build(job.config, gradient_checkpointing=job.gradient_checkpointing), _newest_checkpoint()
        model = restore(model, saved["trained"]) if saved else model
        self.fitter = RewardFitter(model, settings, device, self.rank)
        if saved:
            self.fitter.engine.load_state_dict(saved["engine"])
        self.done = int(saved["done"]) if saved else 0
        self.finished = bool(saved and saved["finished"])
        self.best = BestWeights.of(settings.keep == "best" and self.rank.rank == 0, saved["best"] if saved else None)
        self.validation = Validation(job.sampler.source, settings, self.rank)
        self.schedule = FitSchedule(settings, job.sampler.steps_per_epoch, job.sampler.steps)
        self.metrics, self.read = TrainMetrics(), RowCount()
        self.log = FitLog(lines, job, self.rank, device, self.done) if self.rank.rank == 0 else None
        if self.log:
            self.log.say_sizes(self.fitter.processor)

    def inputs(self, readers: Any) -> Iterator[_Input]:
        """The input of each step from the next one to the end of the fit."""
        sampler, processor = self.job.sampler, self.fitter.processor
        steps = rows_of_steps(readers, sampler, self.rank, self.done, processor.bounds)
        for step, rows in enumerate(steps, start=self.done):
            pairs, unreadable = self._checked(rows)
            yield _Input(self.fitter.prepare(pairs, step, fitted=True), unreadable)

    def _checked(self, rows: Rows) -> tuple[list[Pair], list[UnreadableRow]]:
        pairs: list[Pair] = []
        unreadable: list[UnreadableRow] = []
        for row in rows:
            if isinstance(row, UnreadableRow):
                unreadable.append(row)
                continue
            try:
                pairs.append(checked(row, self.fitter.processor.template.encode))
            except ValueError as error:
                unreadable.append(UnreadableRow(row.pair_id, str(error)))
        return pairs, unreadable

    def learn(self, step: _Input, done: int) -> FitStep:
        """Does one optimizer step, after which `done` are complete."""
        self.metrics.unreadable += step.unreadable
        result = self.fitter.learn(step.prepared, self.schedule.steps, self.metrics)
        if self.log:
            self.log.step(done)
        return result

    @property
    def stops_early(self) -> bool:
        """Whether `reward.patience` measurements brought no better accuracy."""
        return 0 < self.job.settings.patience <= self.best.stale

    def report(self, result: FitStep, held_out: dict[str, float], done: int) -> str:
        """Adds up the metrics of all ranks since the last report, and reports them on rank 0.

        Returns why the fit must stop if too many rows cannot be read; empty otherwise.
        """
        total, self.metrics = over_workers(self.metrics), TrainMetrics()
        self.read.add(total)
        if self.log:
            self.log.add(done, total, {"lr": result.lr, "grad_norm": result.grad_norm, **held_out})
        return self.read.message if self.read.too_many else ""

    def measure(self, done: int) -> dict[str, float]:
        """The accuracy on held-out pairs as values of a report; none if nothing is to be measured."""
        start = time.monotonic()
        found = self.validation.measure(self.fitter)
        if not found.pairs:
            return {}
        trained = self.fitter.state_dict() if self.job.settings.keep == "best" else {}  # every rank takes part
        self.best.add(found.share, done, trained)
        if self.log:
            self.log.exclude(time.monotonic() - start)
        return {"held_out_accuracy": found.share, "held_out_pairs": found.pairs}

    def save(self, done: int, refusal: str = "") -> None:
        """Reports rank 0's metrics and checkpoint to Ray Train. The last one holds the finished SpatialScore directory.

        `refusal`: why the fit stops here; Ray Train keeps only the metrics that come with a checkpoint.
        """
        engine, trained = self.fitter.engine.state_dict(), self.fitter.state_dict()  # every rank takes part
        if self.log is None:
            ray.train.report({})
            return
        finished = self.finished and not refusal
        state = {"done": done, "trained": trained, "engine": engine, "finished": finished, "best": self.best.state()}
        with tempfile.TemporaryDirectory() as folder:
            torch.save(state, Path(folder) / _STATE_FILE)
            if finished:
                self._export(Path(folder) / MODEL_FOLDER, trained, done)
            metrics = {"step": done, **self.log.latest, REFUSAL: refusal}
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))

    def _export(self, folder: Path, trained: dict[str, torch.Tensor], done: int) -> None:
        job, best = self.job, self.best
        weights, step = (best.trained, best.step) if best.trained else (trained, done)
        model = restore(build(job.config), weights)  # the fitter's model may be sharded
        training = TrainingInfo(job.settings.loss, job.sampler.pairs, step)
        model.save_pretrained(folder, include_backbone=job.include_backbone, training=training)


def train_loop_per_worker(loop: dict[str, Any]) -> None:
    """Fits `loop["job"]`, a WorkerJob, from the newest checkpoint on: learn, measure, report, save.

    Log lines go to the actor `loop["lines"]`, pairs come from the PairReaders `loop["readers"]`.
    """
    worker = _Worker(loop["job"], loop["lines"])
    if worker.finished:
        return
    schedule = worker.schedule
    with closing(prefetched(worker.inputs(loop["readers"]))) as inputs:
        for done, step in enumerate(inputs, start=worker.done + 1):
            result = worker.learn(step, done)
            held_out = worker.measure(done) if schedule.measures(done) else {}
            refusal = worker.report(result, held_out, done) if schedule.reports(done) else ""
            worker.finished = not refusal and (worker.stops_early or done == schedule.steps)
            ends = worker.finished or bool(refusal)
            if ends or schedule.saves(done):
                worker.save(done, refusal)
            if ends:
                return


def _newest_checkpoint() -> dict[str, Any] | None:
    """The state that `_Worker.save` saved last; None at a fresh start."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return torch.load(Path(folder) / _STATE_FILE, weights_only=True)

"""A Ray Train worker of stage 2: its share of every batch through a RewardFitter, checkpoints, and reports."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.actor import ActorHandle
from ray.train import Checkpoint
from torch.utils.tensorboard import SummaryWriter

from actors.spatialscore import SpatialScoreConfig, build
from actors.spatialscore.card import TrainingInfo
from actors.spatialscore.flops import measured_peak
from actors.worker_setup import init_worker
from conf.reward import RewardSettings
from pipelines.reward.data import read_rows
from pipelines.reward.fit import RewardFitter, restore
from pipelines.reward.sampler import PairSampler, RankInfo, rows_of_steps
from pipelines.reward.train_metrics import TrainMetrics, over_workers


@dataclass(frozen=True)
class WorkerJob:
    """What every Ray Train worker is started with."""

    settings: RewardSettings
    config: SpatialScoreConfig
    gradient_checkpointing: bool
    include_backbone: bool
    sampler: PairSampler
    log_folder: str


def train_loop_per_worker(loop: dict[str, Any]) -> None:
    """Fits `loop["job"]` from the newest checkpoint on; `loop["lines"]` is told of progress."""
    job: WorkerJob = loop["job"]
    settings, order, context = job.settings, job.sampler, ray.train.get_context()
    rank = RankInfo(context.get_world_rank(), context.get_world_size())
    device = init_worker(settings.threads_per_worker, 1.0 if settings.use_gpu else 0.0)
    torch.manual_seed(settings.seed)  # the same head and LoRA on every rank
    model, saved = build(job.config, gradient_checkpointing=job.gradient_checkpointing), _newest_checkpoint()
    fitter = RewardFitter(restore(model, saved["trained"]) if saved else model, settings, device, rank)
    if saved:
        fitter.engine.load_state_dict(saved["engine"])
    done = int(saved["done"]) if saved else 0
    log = FitLog(loop["lines"], job, device, done) if rank.rank == 0 else None
    tally, encode = TrainMetrics(), fitter.processor.template.encode
    for number, rows in enumerate(rows_of_steps(order, rank, done), start=done):
        pairs, unreadable = read_rows(rows, encode)
        tally.unreadable += unreadable
        if not pairs:
            raise ValueError(f"none of the {len(rows)} pairs of step {number} can be read: {unreadable[0]}")
        taken = fitter.step(pairs, number, order.steps, tally)
        epoch_ends = (number + 1) % order.steps_per_epoch == 0
        if (number + 1) % settings.log_every == 0 or epoch_ends:
            total, tally = over_workers(tally), TrainMetrics()
            if log:
                log.add(number + 1, total, {"lr": taken.lr, "grad_norm": taken.grad_norm})
        if (number + 1) % settings.checkpoint_every == 0 or epoch_ends:
            _report(fitter, number + 1, log, job if number + 1 == order.steps else None)


def _report(fitter: RewardFitter, done: int, log: FitLog | None, finished: WorkerJob | None) -> None:
    """Hands Ray Train the metrics and rank 0's checkpoint; the last one holds the finished SpatialScore directory."""
    engine, trained = fitter.engine.state_dict(), fitter.state_dict()  # every rank takes part
    if log is None:
        ray.train.report({})
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"done": done, "trained": trained, "engine": engine}, Path(folder) / "fit.pt")
        if finished:
            model = restore(build(finished.config), trained)  # the fitter's own may be sharded
            training = TrainingInfo(finished.settings.loss, finished.sampler.pairs, finished.sampler.steps)
            model.save_pretrained(Path(folder) / "model", include_backbone=finished.include_backbone, training=training)
        ray.train.report({"step": done, **log.latest}, checkpoint=Checkpoint.from_directory(folder))


def _newest_checkpoint() -> dict[str, Any] | None:
    """What `_report` saved last, where it has saved."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return torch.load(Path(folder) / "fit.pt", weights_only=True)


class FitLog:
    """Rank 0's reports: TensorBoard, metrics.jsonl, unreadable.jsonl, and a line for the terminal."""

    def __init__(self, lines: ActorHandle, job: WorkerJob, device: torch.device, done: int) -> None:
        self._lines, self._order, self._ranks = lines, job.sampler, ray.train.get_context().get_world_size()
        self._folder = Path(job.log_folder)
        self._board = SummaryWriter(str(self._folder / "tensorboard"), purge_step=done + 1)
        peak = job.settings.peak_tflops * 1e12
        self._peak = peak or measured_peak(device, getattr(torch, job.config.dtype))
        self._start = self._last = time.monotonic()
        self._first = self._done = done
        _rewind(self._folder / "metrics.jsonl", done)
        self._unreadable = _rewind(self._folder / "unreadable.jsonl", done)
        self.latest: dict[str, float] = {}

    def add(self, done: int, tally: TrainMetrics, step: dict[str, float]) -> None:
        """Reports what all workers did since the last call; `done` steps are behind them."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        speed = {
            "pairs_per_second": tally.pairs / seconds,
            "mfu": tally.flops / (seconds * self._peak * self._ranks),
        }
        self._unreadable += len(tally.unreadable)
        self.latest = {**tally.rates(), **step, **speed, "unreadable": self._unreadable}
        for name, value in self.latest.items():
            self._board.add_scalar(f"reward/{name}", value, done)
        self._board.flush()
        _append(self._folder / "metrics.jsonl", {"step": done, **self.latest})
        for row in tally.unreadable:
            _append(self._folder / "unreadable.jsonl", {"step": done, **vars(row)})
        self._lines.put.remote(self._line(done, now))

    def _line(self, done: int, now: float) -> str:
        left = (self._order.steps - done) * (now - self._start) / (done - self._first)
        loss, right, rate = (self.latest[name] for name in ("loss", "accuracy", "pairs_per_second"))
        text = (
            f"reward step {done}/{self._order.steps}  loss {loss:.3f}  pairs right {right:.3f}  "
            f"{rate:.0f} pairs/s  {left:.0f} s left"
        )
        return f"{text}  {self._unreadable} pairs unreadable" if self._unreadable else text


def _rewind(path: Path, done: int) -> int:
    """Drops rows of steps after `done`, which are about to be made again. Returns the number of rows left."""
    if not path.exists():
        return 0
    kept = [line for line in path.read_text().splitlines(True) if json.loads(line)["step"] <= done]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept))
    partial.replace(path)
    return len(kept)


def _append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a") as stream:
        stream.write(json.dumps(row) + "\n")

"""What every data-parallel phase of pretraining shares: its workers and their clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from actors.worker_setup import actor_options, init_worker
from pipelines.common.worker_log import relay_lines

Report = Callable[[str], None]


def run_on_workers(
    work: Callable[[dict[str, Any]], None], phase: object, workers: int, folder: Path, log: Report
) -> None:
    """Has `workers` processes of one thread each do `work` on `phase`. `folder` is Ray Train's; `log` gets progress."""
    with relay_lines(log) as lines:
        TorchTrainer(
            work,
            train_loop_config={"phase": phase, "lines": lines},
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 0.5}),
            run_config=RunConfig(storage_path=str(folder), worker_runtime_env=actor_options(1, 0, 0)["runtime_env"]),
        ).fit()


def set_up_worker(loop: dict[str, Any]) -> tuple[int, Report]:
    """Call first in `work`: sets the process up. Returns its rank, and how to report: rank 0 alone is heard."""
    init_worker(1, 0)
    rank = ray.train.get_context().get_world_rank()

    def report(line: str) -> None:
        if rank == 0:
            ray.get(loop["lines"].put.remote(line))

    return rank, report


def broadcast_progress(progress: float) -> float:
    """Rank 0's clock, for all."""
    if not dist.is_initialized():
        return progress
    shared = torch.tensor([progress])
    dist.broadcast(shared, 0)
    return shared.item()

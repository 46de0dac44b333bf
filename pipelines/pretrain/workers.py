"""The data-parallel workers of a pretraining phase, and the progress that they share."""

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
"""Prints a line of progress."""


def run_on_workers(
    work: Callable[[dict[str, Any]], None], phase: object, workers: int, folder: Path, log: Report
) -> None:
    """Calls `work({"phase": phase, "lines": …})` in `workers` processes of one thread each and waits for them.

    `folder` is the storage path of Ray Train. `log` gets the lines that rank 0 reports.
    """
    with relay_lines(log) as lines:
        TorchTrainer(
            work,
            train_loop_config={"phase": phase, "lines": lines},
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 0.5}),
            run_config=RunConfig(storage_path=str(folder), worker_runtime_env=actor_options(1, 0, 0)["runtime_env"]),
        ).fit()


def set_up_worker(config: dict[str, Any]) -> tuple[int, Report]:
    """Sets up the process of a worker; call it first in `work`. Returns its rank and a Report that only rank 0 uses."""
    init_worker(1, 0)
    rank = ray.train.get_context().get_world_rank()

    def report(line: str) -> None:
        if rank == 0:
            ray.get(config["lines"].put.remote(line))

    return rank, report


def broadcast_progress(progress: float) -> float:
    """Returns rank 0's `progress` on every rank, so that all ranks stop at the same optimizer step."""
    if not dist.is_initialized():
        return progress
    shared = torch.tensor([progress])
    dist.broadcast(shared, 0)
    return shared.item()

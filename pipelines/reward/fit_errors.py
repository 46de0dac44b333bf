"""Errors of the workers of a fit that the settings can avoid, in words for a user."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from ray.train import WorkerGroupError

from actors.workers.faults import fault_kind
from conf import UserError


@contextmanager
def out_of_memory_explained() -> Generator[None]:
    """Inside the block, a worker whose GPU is out of memory is a UserError with the settings to change."""
    try:
        yield
    except WorkerGroupError as error:
        full = [failure for failure in error.worker_failures.values() if fault_kind(failure) == "out_of_memory"]
        if not full:
            raise
        raise UserError(
            f"a worker of stage 2 is out of memory ({str(full[0]).splitlines()[0]:.200}): set "
            "spatialscore.gradient_checkpointing=true, with which the fit goes on where it was, or raise "
            "reward.workers. If the backbone alone fills a GPU: reward.engine=deepspeed reward.zero_stage=3. "
            "`spatialt2i plan` shows the memory by part"
        ) from error

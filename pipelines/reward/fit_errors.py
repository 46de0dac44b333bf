"""Errors of the workers of a fit that the settings can avoid, in words for a user."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from ray.train import WorkerGroupError

from actors.workers.faults import fault_kind
from conf import UserError
from conf.reward import RewardSettings


@contextmanager
def out_of_memory_explained(reward: RewardSettings) -> Generator[None]:
    """Inside the block, a worker whose GPU is out of memory is a UserError with the settings to change."""
    try:
        yield
    except WorkerGroupError as error:
        full = [failure for failure in error.worker_failures.values() if fault_kind(failure) == "out_of_memory"]
        if not full:
            raise
        raise UserError(
            f"a worker of stage 2 is out of memory ({str(full[0]).splitlines()[0]:.200}): {_smaller_passes(reward)}"
            "set spatialscore.gradient_checkpointing=true, or raise reward.workers: the fit goes on where it was. If "
            "the backbone alone fills a GPU: reward.engine=deepspeed reward.zero_stage=3. `spatialt2i plan` shows the "
            "memory by part, and the pairs that fit"
        ) from error


def _smaller_passes(reward: RewardSettings) -> str:
    """Advice to halve the pairs that a worker computes at once, which changes no result; empty for a single pair."""
    pairs = reward.pairs_of_a_pass(reward.workers)
    return f"set reward.micro_batch_size={pairs // 2} (a pass has {pairs} pairs of a worker), " if pairs > 1 else ""

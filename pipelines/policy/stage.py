"""Stage 3 as a job: the reward pool beside the policy's loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from actors.reward import start_pool
from conf import Settings
from pipelines.policy.train import PolicyResult, train_policy


def run_policy(settings: Settings, say: Callable[[str], None] = print) -> PolicyResult:
    """Starts the reward pool with the run's SpatialScore, trains the policy, and stops the pool.

    Raises FileNotFoundError where stage 2 has left no model and `pool.model` names none.
    """
    model = Path(settings.pool.model or Path(settings.run_dir) / "reward" / "model").absolute()
    if not model.is_dir():
        raise FileNotFoundError(f"no SpatialScore at {model}: run `spatialt2i reward train` first, or set pool.model")
    pool = start_pool(settings.pool, str(model))
    try:
        return train_policy(settings, pool, say)
    finally:
        pool.stop()

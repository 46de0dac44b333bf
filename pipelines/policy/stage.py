"""Stage 3 as a job: the rewards beside the policy's loop."""

from __future__ import annotations

from collections.abc import Callable

from conf import Settings
from pipelines.policy.reward_mix import start_rewards
from pipelines.policy.train import PolicyResult, train_policy


def run_policy(settings: Settings, say: Callable[[str], None] = print) -> PolicyResult:
    """Starts the rewards, trains the policy, and stops them. Raises what `start_rewards` and `train_policy` raise."""
    rewards = start_rewards(settings)
    try:
        return train_policy(settings, rewards, say)
    finally:
        rewards.stop()

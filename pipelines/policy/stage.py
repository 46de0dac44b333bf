"""Stage 3 as a job: the rewards beside the policy's loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from conf import Settings
from pipelines.common.prompts import evaluation_notice
from pipelines.policy.gauges import RunGauges
from pipelines.policy.resource_wait import wait_with_status
from pipelines.policy.resources import reward_requests
from pipelines.policy.rewards import start_rewards
from pipelines.policy.train import PolicyResult, check_start, train_policy
from pipelines.reward.sanity_report import require_passed
from pipelines.reward.served_model import served_model


def run_policy(settings: Settings, log: Callable[[str], None] = print) -> PolicyResult:
    """Starts the rewards, trains the policy, and stops them. Raises what `start_rewards` and `train_policy` raise.

    Raises ValueError before that where the run's SpatialScore has a weight but has not passed its examination.
    """
    if settings.rewards.spatialscore:
        served_model(settings)
        require_passed(settings)
    check_start(settings)
    if notice := evaluation_notice(settings):
        log(notice)
    starting = wait_with_status(asyncio.to_thread(start_rewards, settings), reward_requests(settings), log)
    with closing(RunGauges(Path(settings.run_dir))) as gauges:
        gauges.progress()  # so that a wait for the rewards' places can raise an alert
        rewards = asyncio.run(starting)
    try:
        return train_policy(settings, rewards, log)
    finally:
        rewards.stop()

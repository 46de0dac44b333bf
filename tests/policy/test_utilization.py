"""What is said and counted of the rewards of a mix, each of which has a place of its own."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace
from typing import Any, cast

import pytest

from conf import load
from pipelines.policy import utilization as watch
from pipelines.policy.resources import Replicas, reward_requests
from pipelines.policy.timing import TimeWeightedGauge
from pipelines.policy.utilization import UtilizationMonitor

MIX = load("flux_dev", ["rewards.detector=1", "detector.gpus=0.2", "detector.node_group=rules", "policy.learner.gpus=0",
                        "policy.learner.cpus=1", "policy.rollout.gpus=0", "serving.gpus=0.5"])  # fmt: skip


class Rollouts:
    """As many actors as are asked for, and what was asked of them."""

    def __init__(self) -> None:
        self.ready_actors, self.busy_actors = TimeWeightedGauge(), TimeWeightedGauge()
        self.calls: list[str] = []

    def any_ready(self) -> bool:
        """There are."""
        return True

    def scale_down(self) -> None:
        """Notes it."""
        self.calls.append("give way")

    def grow(self) -> None:
        """Notes it."""
        self.calls.append("grow")


class Rewards:
    """So many running replicas of SpatialScore, and of the detector."""

    def __init__(self, *running: int) -> None:
        self.running = running

    async def replicas(self) -> list[Replicas]:
        """See RewardPool in pipelines.policy.collector."""
        return [Replicas(*pair) for pair in zip(reward_requests(MIX), self.running, strict=True)]


def watched(rewards: Rewards, said: list[str]) -> tuple[UtilizationMonitor, Any]:
    """A watch on `rewards`, for which one group waits, and what it watches."""
    groups = SimpleNamespace(rollouts=Rollouts(), rewards=rewards, scoring=TimeWeightedGauge())
    groups.scoring.add(+1)
    return UtilizationMonitor(MIX, cast(Any, groups), said.append), groups


def test_the_reward_that_is_missing_is_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It loads first, and then, lost again, it finds no room: to that alone a rollout actor gives way."""
    monkeypatch.setattr(watch, "REMIND_AFTER", 0.01)
    unplaced: list[int] = []
    monkeypatch.setattr(watch, "pending_actors", lambda demand: len(unplaced))
    monkeypatch.setattr(watch, "describe_wait", lambda demand: f"waiting for {demand}")
    said: list[str] = []
    rewards = Rewards(2, 0)
    one, groups = watched(rewards, said)

    async def watch_for_a_while() -> None:
        standing_by = asyncio.create_task(one.report_stalls())
        while len(said) < 3:
            await asyncio.sleep(0.01)
        assert not groups.rollouts.calls
        unplaced.append(1)
        while not groups.rollouts.calls:
            await asyncio.sleep(0.01)
        rewards.running = (2, 1)
        while "grow" not in groups.rollouts.calls:
            await asyncio.sleep(0.01)
        standing_by.cancel()

    asyncio.run(asyncio.wait_for(watch_for_a_while(), 10))
    assert set(said) == {"waiting for 1 detector replicas of 0.1 CPUs and 0.2 GPUs on nodes of group rules"}


async def loads_under(rewards: Rewards) -> watch.Utilization:
    """What one iteration under `rewards` reads, their number having been asked for."""
    one, _ = watched(rewards, [])
    one.begin()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return one.end()


def test_gpus_are_counted_reward_by_reward() -> None:
    held = asyncio.run(loads_under(Rewards(3, 2)))
    assert held.gpus == pytest.approx(3 * 0.5 + 2 * 0.2) and held.reward_replicas == 5


def test_while_the_controller_is_away_nothing_is_claimed() -> None:
    class Away(Rewards):
        async def replicas(self) -> list[Replicas]:
            raise ConnectionError

    held = asyncio.run(loads_under(Away()))
    assert math.isnan(held.reward_replicas) and held.gpus == 0

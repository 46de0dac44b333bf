"""Utilization of real pools, and rollout actors that are given up for a reward that Ray cannot place."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import ray
from ray.exceptions import RayError

from actors.types import Scores
from conf import load
from conf.settings import Settings
from pipelines.common.cluster_state import Bundle, ClusterState, read_cluster
from pipelines.common.resources import ResourceRequest
from pipelines.policy.collector import GroupCollector, Rewards
from pipelines.policy.resources import Replicas, detector_request, spatialscore_request
from pipelines.policy.rollout_pool import RolloutPool
from pipelines.policy.timing import BusyTime, IterationTimer, TimeWeightedGauge
from pipelines.policy.utilization import Utilization, UtilizationMonitor
from tests.support.light_actors import Sleeper

SETTINGS = load("scenes", ["rewards.detector=1", "serving.gpus=0.5", "detector.gpus=0.2"])


class FixedReplicas:
    """Rewards with a fixed number of running replicas; an error stands for a controller that is away."""

    retries = 0

    def __init__(self, *replicas: Replicas, error: RayError | None = None) -> None:
        self._replicas, self._error = replicas, error

    async def score(self, images: ray.ObjectRef[np.ndarray], prompts: tuple[str, ...]) -> Scores:
        """No test here has anything scored."""
        raise AssertionError("these rewards only report their replicas")

    score_held_out = score

    async def watch(self, images: ray.ObjectRef[np.ndarray], prompts: tuple[str, ...]) -> dict[str, Scores]:
        """No reward is watched."""
        return {}

    async def replicas(self) -> list[Replicas]:
        """Returns the replicas or raises the error."""
        if self._error:
            raise self._error
        return list(self._replicas)


class OneReplica(FixedReplicas):
    """A reward whose single replica is a real actor, which runs when Ray finds a node for it."""

    def __init__(self, request: ResourceRequest) -> None:
        super().__init__()
        self._request, self.running = request, 0
        self.actor: Any = ray.remote(Sleeper).options(num_cpus=request.cpus).remote()
        self._ready = asyncio.ensure_future(self._when_ready())

    async def _when_ready(self) -> None:
        await self.actor.ready.remote()
        self.running = 1

    async def replicas(self) -> list[Replicas]:
        """Whether the actor runs."""
        return [Replicas(self._request, self.running)]


async def until(condition: Callable[[], bool]) -> None:
    """Polls for at most 60 s."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def pool_of(count: int, cpus: float) -> RolloutPool:
    """A pool whose actors are all ready."""
    pool = RolloutPool(ray.remote(Sleeper).options(num_cpus=cpus).remote, count, 1)
    await until(lambda: pool.ready_actors.value == count)
    return pool


def collector_of(rollouts: RolloutPool, rewards: Rewards) -> GroupCollector:
    """A collector for which one group waits for its scores."""
    collector = GroupCollector(rollouts, rewards, [], SETTINGS.policy)
    collector.scoring.add(1)
    return collector


@pytest.mark.ray
def test_rollout_actors_are_given_up_for_a_reward_without_a_node(ray_cluster: None) -> None:
    """Three actors of 1.2 CPUs leave no room for the replica of 2 CPUs. It loads after two of them are gone."""
    messages: list[str] = []
    request = ResourceRequest("detector replicas", 1, 2.0, 0.0, "", "")

    async def run() -> None:
        rollouts = await pool_of(3, cpus=1.2)
        rewards = OneReplica(request)
        await until(lambda: read_cluster().is_pending(2.0, 0.0))
        monitor = UtilizationMonitor(SETTINGS, collector_of(rollouts, rewards), messages.append, period_s=1.0)
        reports = asyncio.create_task(monitor.report_stalls())
        await until(lambda: len(rollouts.actors) < 3)
        assert messages[0].startswith("waiting for 1 detector replicas of 2 CPUs and 0 GPUs: 2 CPUs requested, 4 reg")
        await until(lambda: rewards.running == 1)
        assert len(rollouts.actors) >= 1
        await until(lambda: len(rollouts.actors) == 3)  # requested again; they stay pending
        reports.cancel()
        rollouts.stop()
        ray.kill(rewards.actor)

    asyncio.run(run())


@pytest.mark.ray
def test_no_rollout_actor_is_given_up_for_a_reward_that_loads(ray_cluster: None) -> None:
    """Its replica has a node: nothing of its size is pending."""
    messages: list[str] = []
    request = ResourceRequest("detector replicas", 1, 0.123, 0.0, "", "")

    async def run() -> None:
        rollouts = await pool_of(2, cpus=0.2)
        collector = collector_of(rollouts, FixedReplicas(Replicas(request, 0)))
        reports = asyncio.create_task(UtilizationMonitor(SETTINGS, collector, messages.append, 0.1).report_stalls())
        await until(lambda: len(messages) >= 3)
        assert len(rollouts.actors) == 2
        reports.cancel()
        rollouts.stop()

    asyncio.run(run())
    assert set(messages) == {"waiting for 1 detector replicas to load: all of them have a node"}


@pytest.mark.ray
def test_rollout_actors_are_given_up_for_one_more_replica_without_a_node(ray_cluster: None) -> None:
    """One replica runs and a second one is pending. While the second one loads, no more are given up."""
    messages: list[str] = []
    request = ResourceRequest("SpatialScore replicas", 1, 2.0, 0.0, "", "")
    nodes = [ClusterState((), frozenset({Bundle(2.0, 0.0)}))]

    async def run() -> None:
        rollouts = await pool_of(3, cpus=0.2)
        collector = collector_of(rollouts, FixedReplicas(Replicas(request, running=1, starting=1)))
        monitor = UtilizationMonitor(SETTINGS, collector, messages.append, 0.1, lambda: nodes[0])
        reports = asyncio.create_task(monitor.report_stalls())
        await until(lambda: len(rollouts.actors) < 3)
        nodes[0] = ClusterState((), frozenset())  # it has a node now and loads
        left, said = len(rollouts.actors), len(messages)
        await asyncio.sleep(0.5)
        assert (len(rollouts.actors), len(messages)) == (left, said)
        reports.cancel()
        rollouts.stop()

    asyncio.run(run())
    assert messages[0].startswith("waiting for 1 SpatialScore replicas of 2 CPUs")


async def utilization_under(rewards: Rewards, settings: Settings) -> Utilization:
    """Measures 0.2 s of two idle rollout actors and one group that waits for its scores."""
    rollouts = await pool_of(2, cpus=0.2)
    monitor = UtilizationMonitor(settings, collector_of(rollouts, rewards), print)
    monitor.begin()
    await asyncio.sleep(0.2)
    utilization = monitor.end()
    rollouts.stop()
    return utilization


@pytest.mark.ray
def test_gpus_and_idle_time_are_summed_over_rewards(ray_cluster: None) -> None:
    """One group waits: of three replicas of the first reward two idle, of two of the second one."""
    rewards = FixedReplicas(
        Replicas(spatialscore_request(SETTINGS.serving), 3), Replicas(detector_request(SETTINGS.detector), 2)
    )
    utilization = asyncio.run(utilization_under(rewards, SETTINGS))
    assert utilization.reward_replicas == 5
    assert utilization.reward_queue == 1
    assert utilization.gpus == pytest.approx(3 * 0.5 + 2 * 0.2)
    assert utilization.rollout_actors == 2
    assert 2 * 0.2 <= utilization.rollout_idle_seconds <= 2 * 5
    assert utilization.reward_idle_seconds == pytest.approx(3 / 2 * utilization.rollout_idle_seconds, rel=0.05)


@pytest.mark.ray
def test_without_an_answer_of_the_controller_reward_fields_are_nan(ray_cluster: None) -> None:
    utilization = asyncio.run(utilization_under(FixedReplicas(error=RayError()), SETTINGS))
    assert math.isnan(utilization.reward_replicas)
    assert math.isnan(utilization.reward_idle_seconds)
    assert utilization.gpus == 0


def test_a_gauge_knows_how_long_it_had_each_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 s at 0, 3 s at 1, 1 s at 4. Of three servers three are idle, then two, then none."""
    now = [10.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    gauge = TimeWeightedGauge()
    for seconds, change in ((2, +1), (3, +3), (1, 0)):
        now[0] += seconds
        gauge.add(change)
    window = gauge.read()
    assert (window.seconds, window.integral, window.mean) == (6, 7, 7 / 6)
    assert (window.idle_seconds(3), window.idle_seconds(1), window.idle_seconds(0)) == (3 * 2 + 2 * 3, 2, 0)
    assert gauge.read().seconds_at == {4: 0.0}


def test_waits_are_split_by_cause_and_are_means_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of two ranks waits 4 s, of which the images take 3. Then it waits 3 s for the other rank."""
    now = [10.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    timer = IterationTimer(ranks=2)
    timer.start()
    now[0] += 4
    timer.waited(since=10.0, sampled_at=13.0)
    timer.waited(since=10.0, sampled_at=13.0, sampling=4.0)  # the other rank sampled all the time
    timer.ranks_waited([3.0, 0.0])
    timer.stop()
    assert (timer.wait_for_images_seconds, timer.wait_for_scores_seconds) == (1.5, 0.5)
    assert (timer.wait_for_ranks_seconds, timer.iteration_seconds) == (1.5, 4.0)


def test_busy_time_counts_overlapping_calls_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    busy = BusyTime()
    for change in (busy.begin, busy.begin, busy.end, busy.end, busy.begin):
        change()
        now[0] += 1
    assert busy.seconds == 3 + 1

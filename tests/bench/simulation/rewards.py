"""Simulated replicas of SpatialScore behind the real RewardPool, scaled by Serve's own autoscaling policy."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from ray.exceptions import RayActorError
from ray.serve.autoscaling_policy import (
    _apply_delay_logic,  # pyright: ignore[reportPrivateUsage] # the public wrapper reads the wall clock
    _apply_scaling_factors,  # pyright: ignore[reportPrivateUsage]
    replica_queue_length_autoscaling_policy,
)
from ray.serve.config import AutoscalingContext

from actors.types import Scores
from actors.workers.reward import RewardPool, autoscaling_config
from conf.settings import Settings
from pipelines.policy.resources import Replicas, spatialscore_request
from tests.bench.simulation.fleet import Fleet, Job, Ref, SimActor
from tests.bench.simulation.workers import Sampled, Seconds

CONTROL_PERIOD_S = 1.0
"""Serve decides every 0.1 s, by a mean over 30 s; a decision a second differs little."""


class _Replica:
    """Scores one group after the other. The scores are random numbers that follow from the seeds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def job(self, name: str, args: Sequence[Any]) -> Job:
        """See Worker."""
        if name == "ready":
            return Job("other", 0.0, lambda: [True])
        images: Ref[Sampled] = args[0]
        seeds = images.value.seeds

        def results() -> Sequence[Scores]:
            mu = np.random.default_rng(seeds[0]).standard_normal(len(seeds)).astype(np.float32)
            return [Scores(mu, np.ones(len(seeds), np.float32))]

        return Job("score", self._seconds, results)


class _Handle:
    """Serve's handle and router: a call goes to the replica with the fewest calls, or waits."""

    def __init__(self, fleet: Fleet, settings: Settings, seconds: Seconds) -> None:
        self.fleet, self.seconds, self.serving = fleet, seconds, settings.serving
        self.ongoing: dict[SimActor, int] = {}
        """Running replicas and their calls."""
        self.starting: set[SimActor] = set()
        self.queue: deque[asyncio.Future[SimActor]] = deque()
        self.score = self

    @property
    def requests(self) -> int:
        """Calls that run or wait."""
        return sum(self.ongoing.values()) + sum(not waiter.done() for waiter in self.queue)

    def remote(self, images: Ref[Sampled], prompts: tuple[str, ...]) -> asyncio.Task[Scores]:
        """As Serve's."""
        return asyncio.ensure_future(self._call(images))

    async def _call(self, images: Ref[Sampled]) -> Scores:
        waiter: asyncio.Future[SimActor] = self.fleet.loop.create_future()
        self.queue.append(waiter)
        self._route()
        replica = await waiter
        try:
            return await replica.score.remote(images)
        finally:
            if replica in self.ongoing:
                self.ongoing[replica] -= 1
            self._route()

    def _route(self) -> None:
        with self.fleet.stopwatch.running():
            while self.queue and self.ongoing:
                replica = min(self.ongoing, key=self.ongoing.__getitem__)
                if self.ongoing[replica] >= self.serving.max_ongoing_requests:
                    return
                waiter = self.queue.popleft()
                if not waiter.done():
                    self.ongoing[replica] += 1
                    waiter.set_result(replica)

    async def start_replica(self) -> None:
        """Starts one replica. Returns once it runs, or died."""
        replica = self.fleet.start(_Replica(self.seconds.score_group), self.serving.gpus, self.seconds.start_reward)
        self.starting.add(replica)
        try:
            await replica.ready.remote()
            self.ongoing[replica] = 0
            self._route()
        except RayActorError:
            pass
        finally:
            self.starting.discard(replica)

    def stop_replica(self) -> None:
        """Stops the replica with the fewest calls, or one that starts. Serve would let it finish its calls."""
        idle = [replica for replica, calls in self.ongoing.items() if not calls]
        if replica := next(iter([*self.starting, *idle]), None):
            self.starting.discard(replica)
            self.ongoing.pop(replica, None)
            self.fleet.end(replica)


class SimulatedRewards:
    """The rewards of a run. Call `start` inside the event loop, and `stop` in the end."""

    def __init__(self, fleet: Fleet, settings: Settings, seconds: Seconds) -> None:
        self._settings, serving = settings, settings.serving
        self._handle = _Handle(fleet, settings, seconds)
        self._pool = RewardPool(cast(Any, self._handle), "spatialscore", "ScoreReplica", serving.retries)
        self._config = autoscaling_config(serving.min_replicas, serving.max_replicas, serving)
        self._target, self._state = serving.min_replicas, dict[str, Any]()
        self._seen: deque[float] = deque(maxlen=int(self._config.look_back_period_s / CONTROL_PERIOD_S))
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Starts the first replicas and the autoscaler. Returns once they run."""
        await asyncio.gather(*(self._handle.start_replica() for _ in range(self._target)))
        self._run(self._scale())

    def _run(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def retries(self) -> int:
        """See Rewards."""
        return self._pool.retries

    async def score(self, images: Any, prompts: tuple[str, ...]) -> Scores:
        """See Rewards."""
        return await self._pool.score(images, prompts)

    score_held_out = score

    async def watch(self, images: Any, prompts: tuple[str, ...]) -> dict[str, Scores]:
        """No reward is watched."""
        return {}

    async def replicas(self) -> list[Replicas]:
        """See Rewards."""
        return [Replicas(spatialscore_request(self._settings.serving), len(self._handle.ongoing))]

    async def _scale(self) -> None:
        """Serve's controller: replaces dead replicas and follows the policy."""
        handle, fleet = self._handle, self._handle.fleet
        while True:
            await asyncio.sleep(CONTROL_PERIOD_S)
            with fleet.stopwatch.running():
                for replica in [each for each in handle.ongoing if each.dead]:
                    del handle.ongoing[replica]
                self._seen.append(handle.requests)
                self._target = self._decide(fleet.loop.time())
                there = len(handle.ongoing) + len(handle.starting)
            for _ in range(self._target - there):
                self._run(handle.start_replica())
            for _ in range(there - self._target):
                handle.stop_replica()

    def _decide(self, now: float) -> int:
        running = len(self._handle.ongoing)
        requests = sum(self._seen) / len(self._seen)
        context = AutoscalingContext(
            deployment_id=cast(Any, None), deployment_name="ScoreReplica", app_name="spatialscore",
            current_num_replicas=running, target_num_replicas=self._target, running_replicas=[],
            total_num_requests=requests, total_queued_requests=0.0, aggregated_metrics=None, raw_metrics=None,
            capacity_adjusted_min_replicas=self._config.min_replicas,
            capacity_adjusted_max_replicas=self._config.max_replicas, policy_state=self._state,
            last_scale_up_time=None, last_scale_down_time=None, current_time=now, config=self._config,
        )  # fmt: skip
        desired, _ = replica_queue_length_autoscaling_policy(context)
        wanted = _apply_scaling_factors(desired, running, self._config)
        wanted = min(max(wanted, self._config.min_replicas), self._config.max_replicas)
        target, self._state = _apply_delay_logic(wanted, self._target, self._config, self._state, _now=now)
        return target

    def stop(self) -> None:
        """Ends autoscaler and replicas."""
        for task in self._tasks:
            task.cancel()

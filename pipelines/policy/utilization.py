"""What the roles beside the learner did in one iteration: who was there, who idled, how long the queue was."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ray.exceptions import RayError

from conf.settings import Settings
from pipelines.policy.collector import GroupCollector
from pipelines.policy.resource_wait import REMIND_AFTER, describe_wait
from pipelines.policy.resources import Replicas, ResourceRequest, pending_actors, rollout_request


@dataclass(frozen=True)
class Utilization:
    """Means over one iteration."""

    rollout_actors: float  # that were ready
    rollout_idle_seconds: float  # summed over them: no group may start before the next weights are there
    reward_queue: float  # groups whose scores were awaited
    reward_idle_seconds: float  # summed over replicas, at a group for each: there were fewer
    reward_replicas: float  # at the iteration's end; NaN, as the idle time, while Serve's controller does not answer
    gpus: float  # that the run held


class UtilizationMonitor:
    """Reads the levels that the pools keep, and speaks up while one of them is empty."""

    def __init__(self, settings: Settings, groups: GroupCollector, log: Callable[[str], None]) -> None:
        self._settings, self._groups, self._log = settings, groups, log
        self._asking: asyncio.Task[Sequence[Replicas]] | None = None

    def begin(self) -> None:
        """Begins an iteration."""
        for level in (self._groups.rollouts.ready_actors, self._groups.rollouts.busy_actors, self._groups.scoring):
            level.read()
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._groups.rewards.replicas())

    def end(self) -> Utilization:
        """Ends it."""
        rollouts, policy = self._groups.rollouts, self._settings.policy
        ready, busy, scoring = rollouts.ready_actors.read(), rollouts.busy_actors.read(), self._groups.scoring.read()
        replicas = self._replicas()
        return Utilization(
            rollout_actors=ready.mean,
            rollout_idle_seconds=max(ready.integral - busy.integral, 0.0),
            reward_queue=scoring.mean,
            reward_idle_seconds=_sum(replicas, lambda each: scoring.idle_seconds(each.running)),
            reward_replicas=_sum(replicas, lambda each: each.running),
            gpus=ready.mean * policy.rollout.gpus
            + policy.learner.ranks * policy.learner.gpus
            + sum(each.running * each.request.gpus for each in replicas or ()),
        )

    def _replicas(self) -> Sequence[Replicas] | None:
        if self._asking is None or not self._asking.done() or self._asking.exception():
            return None
        return self._asking.result()

    async def report_stalls(self) -> None:
        """For ever: says what is waited for where no actor can sample or no replica can score.

        A rollout actor beyond the least number gives way to a reward that finds no room, and is asked for again later.
        """
        rollouts, lent = self._groups.rollouts, False
        while True:
            await asyncio.sleep(REMIND_AFTER)
            if not rollouts.any_ready():
                self._log(describe_wait(rollout_request(self._settings.policy)))
            missing = await self._missing()
            for demand in missing:
                self._log(describe_wait(demand))
            if any(map(pending_actors, missing)):
                rollouts.scale_down()
                lent = True
            elif lent and not missing:
                rollouts.scale_up()
                lent = False

    async def _missing(self) -> list[ResourceRequest]:
        """Of the rewards that groups wait for and that no replica gives."""
        if not self._groups.scoring.value:
            return []
        try:
            return [each.request for each in await self._groups.rewards.replicas() if not each.running]
        except RayError:  # Serve's controller is away; it will be back
            return []


def _sum(replicas: Sequence[Replicas] | None, value: Callable[[Replicas], float]) -> float:
    """Over all rewards; NaN where their replicas are not known."""
    return math.nan if replicas is None else sum(map(value, replicas))

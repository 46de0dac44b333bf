"""What the roles beside the learner did in one iteration: who was there, who idled, how long the queue was."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ray.exceptions import RayError

from conf.settings import Settings
from pipelines.policy.collector import GroupMaker
from pipelines.policy.resource_wait import REMIND_AFTER, waiting_for
from pipelines.policy.resources import Demand, Replicas, rollout_demand, without_place


@dataclass(frozen=True)
class Loads:
    """Means over one iteration."""

    rollout_actors: float  # that were ready
    rollout_idle_seconds: float  # summed over them: no group may start before the next weights are there
    reward_queue: float  # groups whose scores were awaited
    reward_idle_seconds: float  # summed over replicas, at a group for each: there were fewer
    reward_replicas: float  # at the iteration's end; NaN, as the idle time, while Serve's controller does not answer
    gpus: float  # that the run held


class Watch:
    """Reads the levels that the pools keep, and speaks up while one of them is empty."""

    def __init__(self, settings: Settings, groups: GroupMaker, say: Callable[[str], None]) -> None:
        self._settings, self._groups, self._say = settings, groups, say
        self._asking: asyncio.Task[Sequence[Replicas]] | None = None

    def start(self) -> None:
        """Begins an iteration."""
        for level in (self._groups.rollouts.ready_actors, self._groups.rollouts.busy_actors, self._groups.scoring):
            level.read()
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._groups.rewards.replicas())

    def read(self) -> Loads:
        """Ends it."""
        rollouts, policy = self._groups.rollouts, self._settings.policy
        ready, busy, scoring = rollouts.ready_actors.read(), rollouts.busy_actors.read(), self._groups.scoring.read()
        replicas = self._replicas()
        return Loads(
            rollout_actors=ready.mean,
            rollout_idle_seconds=max(ready.area - busy.area, 0.0),
            reward_queue=scoring.mean,
            reward_idle_seconds=_sum(replicas, lambda each: scoring.short_of(each.running)),
            reward_replicas=_sum(replicas, lambda each: each.running),
            gpus=ready.mean * policy.rollout_gpus
            + policy.learner_ranks * policy.learner_gpus
            + sum(each.running * each.demand.gpus for each in replicas or ()),
        )

    def _replicas(self) -> Sequence[Replicas] | None:
        if self._asking is None or not self._asking.done() or self._asking.exception():
            return None
        return self._asking.result()

    async def stand_by(self) -> None:
        """For ever: says what is waited for where no actor can sample or no replica can score.

        A rollout actor beyond the least number gives way to a reward that finds no room, and is asked for again later.
        """
        rollouts, lent = self._groups.rollouts, False
        while True:
            await asyncio.sleep(REMIND_AFTER)
            if not rollouts.any_ready():
                self._say(waiting_for(rollout_demand(self._settings.policy)))
            missing = await self._missing()
            for demand in missing:
                self._say(waiting_for(demand))
            if any(map(without_place, missing)):
                rollouts.give_way()
                lent = True
            elif lent and not missing:
                rollouts.grow()
                lent = False

    async def _missing(self) -> list[Demand]:
        """Of the rewards that groups wait for and that no replica gives."""
        if not self._groups.scoring.value:
            return []
        try:
            return [each.demand for each in await self._groups.rewards.replicas() if not each.running]
        except RayError:  # Serve's controller is away; it will be back
            return []


def _sum(replicas: Sequence[Replicas] | None, value: Callable[[Replicas], float]) -> float:
    """Over all rewards; NaN where their replicas are not known."""
    return math.nan if replicas is None else sum(map(value, replicas))

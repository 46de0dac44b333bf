"""How busy the rollout actors and the rewards were in an iteration, and what blocks them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ray.exceptions import RayError

from conf.settings import Settings
from pipelines.common.cluster_state import ClusterState, read_cluster
from pipelines.common.resource_wait import STATUS_PERIOD_S, describe_wait
from pipelines.policy.collector import GroupCollector
from pipelines.policy.resources import Replicas, sampling_request


@dataclass(frozen=True)
class Utilization:
    """Means and sums over one iteration. The reward fields are NaN if Serve's controller did not answer."""

    rank_sampling_seconds: float
    """Seconds in which a learner rank sampled, as a mean over ranks. 0 if the ranks do not sample."""
    rollout_actors: float
    """Mean number of ready rollout actors."""
    rollout_idle_seconds: float
    """Seconds without a call, summed over rollout actors."""
    reward_queue: float
    """Mean number of groups that wait for their scores."""
    reward_idle_seconds: float
    """Seconds without a group, summed over replicas."""
    reward_replicas: float
    """Running replicas of all rewards."""
    gpus: float
    """Mean number of GPUs that the run holds."""


class UtilizationMonitor:
    """Measures utilization from the gauges of the pools, and reports roles that lack resources."""

    def __init__(
        self,
        settings: Settings,
        collector: GroupCollector,
        log: Callable[[str], None],
        period_s: float = STATUS_PERIOD_S,
        read: Callable[[], ClusterState] = read_cluster,
    ) -> None:
        """`period_s`: seconds between two checks of `report_stalls`. `read` returns the state of the cluster."""
        self._settings, self._collector, self._log = settings, collector, log
        self._period_s, self._read = period_s, read
        self._rank_sampling = 0.0
        self._replicas: asyncio.Task[Sequence[Replicas]] | None = None

    def begin(self) -> None:
        """Begins an iteration."""
        rollouts = self._collector.rollouts
        for gauge in (rollouts.ready_actors, rollouts.busy_actors, self._collector.scoring):
            gauge.read()
        self._rank_sampling = rollouts.rank_sampling_seconds()
        if self._replicas is None or self._replicas.done():
            self._replicas = asyncio.create_task(self._collector.rewards.replicas())

    def end(self) -> Utilization:
        """Ends the iteration and returns its utilization."""
        rollouts, policy = self._collector.rollouts, self._settings.policy
        ready, busy = rollouts.ready_actors.read(), rollouts.busy_actors.read()
        scoring = self._collector.scoring.read()
        known = self._replicas is not None and self._replicas.done() and not self._replicas.exception()
        replicas = self._replicas.result() if self._replicas and known else ()
        return Utilization(
            rank_sampling_seconds=rollouts.rank_sampling_seconds() - self._rank_sampling,
            rollout_actors=ready.mean,
            rollout_idle_seconds=max(ready.integral - busy.integral, 0.0),
            reward_queue=scoring.mean,
            reward_idle_seconds=sum(scoring.idle_seconds(each.running) for each in replicas) if known else math.nan,
            reward_replicas=sum(each.running for each in replicas) if known else math.nan,
            gpus=ready.mean * policy.rollout.gpus
            + policy.learner.ranks * policy.learner.gpus
            + sum(each.running * each.request.gpus for each in replicas),
        )

    async def report_stalls(self) -> None:
        """Runs until it is cancelled: every `period_s` seconds it logs what blocks sampling or scoring.

        While groups wait for a reward that has no replica, or that Serve gives one more, and Ray has no node for that
        replica, a rollout actor above `policy.rollout.min_actors` is given up at each check. They are requested again
        when no replica is missing.
        """
        rollouts, scaled_down = self._collector.rollouts, False
        while True:
            await asyncio.sleep(self._period_s)
            missing = await self._missing_replicas()
            if scaled_down and not missing:
                rollouts.scale_up()
                scaled_down = False
            no_samples = [] if rollouts.any_ready() else [sampling_request(self._settings.policy)]
            if not (no_samples or missing):
                continue  # the state of a large cluster is large: it is read only if something waits
            cluster = self._read()
            unplaced = [each.request for each in missing if cluster.is_pending(each.request.cpus, each.request.gpus)]
            loading = [each.request for each in missing if not each.running and each.request not in unplaced]
            for request in (*no_samples, *unplaced, *loading):
                self._log(describe_wait(request, cluster))
            if unplaced:
                rollouts.scale_down()
                scaled_down = True

    async def _missing_replicas(self) -> list[Replicas]:
        """The rewards without a running replica, or with one that starts. Empty if no group waits for scores."""
        if not self._collector.scoring.value:
            return []
        try:
            return [each for each in await self._collector.rewards.replicas() if each.starting or not each.running]
        except RayError:  # Serve's controller is being restarted
            return []

"""The groups of one optimizer step on their way to the learner ranks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from ray.exceptions import ObjectLostError

from actors.grpo.shares import Share, divide_groups
from actors.workers.learner_group import LearnerGroup
from pipelines.policy.collector import GroupCollector, ScoredGroup
from pipelines.policy.tasks import gather_or_cancel
from pipelines.policy.timing import IterationTimer, now


@dataclass(frozen=True)
class _Finished:
    """When a rank had accumulated its share, and how long it had sampled until then."""

    at: float
    sampling_seconds: float


class Accumulation:
    """Has every rank accumulate its share of the groups of one optimizer step, each as soon as it is scored.

    `divide_groups` says which rank takes what. A rank that samples too learns when it has nothing to sample.
    """

    def __init__(
        self,
        groups: Sequence[asyncio.Future[ScoredGroup]],
        ranks: LearnerGroup,
        collector: GroupCollector,
        timer: IterationTimer,
        version: int,
        may_collect: bool,
    ) -> None:
        """`version`: the policy version that learns. `may_collect`: a lost group can be sampled again."""
        self._groups = list(groups)
        self._ranks, self._collector, self._rollouts = ranks, collector, collector.rollouts
        self._timer, self._version, self._may_collect = timer, version, may_collect

    async def finish(self) -> list[ScoredGroup]:
        """Returns the groups in order, once every rank has accumulated its share.

        If it raises, nothing of it is still running: it would feed the next learner with groups of this one.
        """
        shares = divide_groups(len(self._groups), len(self._ranks.ranks))
        finished = await gather_or_cancel(*(self._accumulate(rank, share) for rank, share in enumerate(shares)))
        self._timer.ranks_waited(
            [
                now() - rank.at - (self._rollouts.sampling_seconds(handle) - rank.sampling_seconds)
                for rank, handle in zip(finished, self._ranks.ranks, strict=True)
            ]
        )
        return [await group for group in self._groups]

    async def _accumulate(self, rank: int, shares: Sequence[Share]) -> _Finished:
        handle, rollouts = self._ranks.ranks[rank], self._rollouts
        for share in shares:
            while True:
                since, sampled = now(), rollouts.sampling_seconds(handle)
                scored = await self._groups[share.group]
                try:
                    async with rollouts.claimed(handle):
                        sampling = rollouts.sampling_seconds(handle) - sampled
                        self._timer.waited(since, scored.sampled_at, sampling)
                        with self._timer.learning(ranks=1):
                            await self._ranks.accumulate(
                                rank,
                                self._version,
                                share.part,
                                scored.advantages,
                                scored.conditioning,
                                scored.trajectories,
                            )
                    break
                except ObjectLostError:  # the node with the trajectories died
                    if not self._may_collect:
                        raise
                    await self._collect_again(share.group, scored)
        return _Finished(now(), rollouts.sampling_seconds(handle))

    async def _collect_again(self, index: int, lost: ScoredGroup) -> None:
        """Collects a group again, once for all ranks that need it."""
        if await self._groups[index] is lost:
            self._collector.reissued += 1
            self._groups[index] = asyncio.create_task(self._collector.collect(lost.group))

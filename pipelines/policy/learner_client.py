"""The learner as the loop sees it: fed group by group, watched for idle updates, brought back to life."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import ObjectLostError

from actors.files import DamagedFileError
from actors.grpo.advantages import batch_divisor
from actors.grpo.learner import OptimizerStepMetrics
from actors.workers.learner import LearnerGroup
from actors.workers.rollout import WeightsHandle
from conf.policy import PolicySettings
from pipelines.policy.checkpoint import Checkpoints, Manifest
from pipelines.policy.collector import GroupCollector, ScoredGroup, advantages_of
from pipelines.policy.resource_wait import wait_with_status
from pipelines.policy.resources import learner_request, rollout_request
from pipelines.policy.timing import IterationTimer

MAX_RESTARTS_WITHOUT_PROGRESS = 5
"""Learners in a row that may die without having published a version."""


def divides_last(settings: PolicySettings) -> bool:
    """Whether the std of an update's scores divides its gradient instead of each advantage, which is the same.

    Learning then need not wait for the update's last score. Not so with a KL term, which nothing divides, or with a
    clip, which needs to see what is divided.
    """
    return (
        settings.algorithm.advantage_std_over == "batch"
        and not settings.algorithm.kl_weight
        and not settings.advantage_clip
    )


class LearnerClient:
    """Feeds the learner's ranks. Methods raise LearnerLostError when one of them died: `restart`, then `restore`."""

    def __init__(
        self, settings: PolicySettings, group: LearnerGroup, start: Callable[[], LearnerGroup], groups: GroupCollector,
        log: Callable[[str], None],
    ) -> None:  # fmt: skip
        """`group` is the first learner, `start` asks Ray for another one; both return at once."""
        self.settings, self.groups, self._start, self._log = settings, groups, start, log
        self.clock = IterationTimer(settings.learner.ranks)
        self.group = group
        self.restarts, self._restarts_without_progress, self._idle = 0, 0, 0

    def restart(self, error: Exception) -> None:
        """Replaces a learner that is lost. Raises `error` where replacing it has not helped before."""
        self.restarts += 1
        self._restarts_without_progress += 1
        if self._restarts_without_progress > MAX_RESTARTS_WITHOUT_PROGRESS:
            raise error
        self.stop()
        self.group = self._start()

    async def restore(self, checkpoints: Checkpoints) -> Manifest | None:
        """Builds the ranks, from the newest checkpoint that is whole. None: there is none, they are as new.

        Raises RuntimeError where there are checkpoints, and none is whole: a run of days must not begin anew unasked.

        The rollout actors load meanwhile, and are waited for as well. While the ranks wait for their places, rollout
        actors beyond the least number give way, one after the other.
        """
        rollouts, placing = self.groups.rollouts, self.group.placed()
        await wait_with_status(placing, [learner_request(self.settings)], self._log, rollouts.scale_down)
        rollouts.scale_up()
        ready = wait_with_status(rollouts.ready(), [rollout_request(self.settings)], self._log)
        await asyncio.gather(self.group.start(), ready)
        for manifest in checkpoints.manifests():
            try:
                await self.group.load(checkpoints.folder(manifest.version), manifest.files)
            except (FileNotFoundError, DamagedFileError) as error:
                checkpoints.skip_damaged(manifest.version, error)
            else:
                self.clock.training_seconds = manifest.training_seconds
                return manifest
        if damaged := checkpoints.complete():
            raise RuntimeError(
                f"none of the {len(damaged)} checkpoints in {checkpoints.location} is whole: put one of them back, or "
                "start anew with policy.resume=never"
            )
        self.clock.training_seconds = 0.0
        return None

    async def learn(
        self, groups: Sequence[Awaitable[ScoredGroup]], version: int, weights: Callable[[], WeightsHandle]
    ) -> list[ScoredGroup]:
        """Has every rank accumulate its share of one update's groups, in order, each as soon as it is scored.

        `version` is the policy version that learns them; a learner of another one refuses them with ValueError.
        When `learn` raises, nothing of it is still running.
        """
        learner, ranks = self.group, self.settings.learner.ranks
        divisor = asyncio.ensure_future(self._divisor(groups))
        feeds = [
            asyncio.create_task(self._accumulate_on(learner, groups[rank::ranks], divisor, rank, version, weights))
            for rank in range(ranks)
        ]
        try:
            shares, through = zip(*await asyncio.gather(*feeds), strict=True)
        finally:
            # when one feed fails, the others must not go on: they would feed the next learner, or sample for nobody
            tasks: list[asyncio.Future[Any]] = [*feeds, divisor]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self.clock.ranks_waited(through)
        return [group for share in shares for group in share]

    async def _divisor(self, groups: Sequence[Awaitable[ScoredGroup]]) -> float | None:
        """What the advantages of every group are divided by; None: by its own std."""
        if self.settings.algorithm.advantage_std_over == "group":
            return None
        return 1.0 if divides_last(self.settings) else self._batch_divisor(await asyncio.gather(*groups))

    def _batch_divisor(self, groups: Sequence[ScoredGroup]) -> float:
        return batch_divisor(
            [group.scores for group in groups],
            [group.advantages for group in groups],
            self.settings.algorithm.advantage_mean_over,
        )

    async def _accumulate_on(
        self,
        learner: LearnerGroup,
        groups: Sequence[Awaitable[ScoredGroup]],
        divisor: Awaitable[float | None],
        rank: int,
        version: int,
        weights: Callable[[], WeightsHandle],
    ) -> tuple[list[ScoredGroup], float]:
        """Gives one rank of `learner` its groups, and says when it was through.

        A group whose trajectories were lost with their node is sampled again.
        """
        learned = []
        for group in groups:
            since = time.perf_counter()
            scored, common = await group, await divisor
            self.clock.waited(since, scored.sampled_at)
            while True:
                advantages = advantages_of(scored.scores, self.settings, common)
                try:
                    with self.clock.learning(ranks=1):
                        await learner.accumulate(rank, version, advantages, scored.conditioning, scored.trajectories)
                    break
                except ObjectLostError:
                    self.groups.lost += 1
                    scored = await self.groups.resample(scored.seat, weights)
            learned.append(scored)
        return learned, time.perf_counter()

    async def step(self, learned: Sequence[ScoredGroup]) -> OptimizerStepMetrics:
        """One optimizer update of what `learn` gave. Raises RuntimeError once `max_idle_updates` changed nothing."""
        divisor = self._batch_divisor(learned) if divides_last(self.settings) else 1.0
        with self.clock.learning(self.settings.learner.ranks):
            update = await self.group.step(divisor)
        self._idle = 0 if update.applied else self._idle + 1
        if self._idle >= self.settings.optimizer.max_empty_steps:
            raise RuntimeError(
                f"{self._idle} updates in a row changed nothing (policy.optimizer.max_empty_steps); the last one had "
                f"{update.samples} samples, loss {update.loss} and gradient norm {update.grad_norm}. Without samples "
                "no group's scores differ, or none is a number: look at the reward (scores_failed, reward_std in "
                "metrics.jsonl). Where the norm is not finite, lower policy.optimizer.lr"
            )
        return update

    async def advance(self) -> WeightsHandle:
        """Ends the iteration: the next version's weights."""
        with self.clock.publishing():
            weights = await self.group.advance()
        self._restarts_without_progress = 0
        return weights

    async def publish(self, averaged: bool = False) -> WeightsHandle:
        """The present version's weights, or their moving average."""
        return await self.group.publish(averaged)

    def states(self) -> Mapping[str, ray.ObjectRef]:
        """What a checkpoint holds."""
        return self.group.states()

    def stop(self) -> None:
        """Ends the learner."""
        self.group.stop()

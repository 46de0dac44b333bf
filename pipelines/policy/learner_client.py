"""The learner as the driver sees it: it accumulates groups, steps, publishes, and is restarted if it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import ray
from ray.exceptions import ObjectLostError

from actors.files import DamagedFileError
from actors.grpo.batch_std import batch_std
from actors.grpo.learner import OptimizerStepMetrics
from actors.workers.learner_group import LearnerGroup
from actors.workers.rollout import WeightsHandle
from conf import UserError
from conf.policy import PolicySettings
from pipelines.policy.checkpoint import Checkpoints, Manifest
from pipelines.policy.cluster_state import ClusterState, read_cluster
from pipelines.policy.collector import GroupCollector, ScoredGroup
from pipelines.policy.resource_wait import wait_with_status
from pipelines.policy.resources import learner_request, rollout_request
from pipelines.policy.timing import IterationTimer, now

MAX_RESTARTS_WITHOUT_PROGRESS = 5
"""Restarts in a row without a new policy version, after which the run ends."""


class LearnerClient:
    """All learner ranks. Its methods raise LearnerLostError if a rank died: call `restart`, then `restore`."""

    def __init__(
        self,
        settings: PolicySettings,
        ranks: LearnerGroup,
        start: Callable[[], LearnerGroup],
        collector: GroupCollector,
        timer: IterationTimer,
        log: Callable[[str], None],
        read: Callable[[], ClusterState] = read_cluster,
    ) -> None:
        """`ranks` is the first learner. `start` asks Ray for another one and returns at once.

        `read` returns the state of the cluster.
        """
        self.settings, self.collector, self.timer = settings, collector, timer
        self._start, self._log, self._read = start, log, read
        self.ranks = ranks
        self.restarts = 0
        self._restarts_without_progress = 0
        self._empty_steps = 0

    def restart(self, error: Exception) -> None:
        """Replaces a lost learner. Raises `error` if restarts did not help MAX_RESTARTS_WITHOUT_PROGRESS times."""
        self.restarts += 1
        self._restarts_without_progress += 1
        if self._restarts_without_progress > MAX_RESTARTS_WITHOUT_PROGRESS:
            raise error
        self.stop()
        self.ranks = self._start()

    async def restore(self, checkpoints: Checkpoints) -> Manifest | None:
        """Builds the ranks and loads the newest complete checkpoint. Returns None if there is no checkpoint.

        Waits for the rollout actors too, which load at the same time. While Ray cannot place the ranks, rollout actors
        above `policy.rollout.min_actors` are given up one by one.

        Raises UserError if there are checkpoints but none is complete: a long run must not restart by itself.
        """
        rollouts = self.collector.rollouts
        learner, sampling = [learner_request(self.settings)], [rollout_request(self.settings)]
        await wait_with_status(self.ranks.placed(), learner, self._log, rollouts.scale_down, read=self._read)
        rollouts.scale_up()
        ready = wait_with_status(rollouts.ready(), sampling, self._log, read=self._read)
        await asyncio.gather(self.ranks.start(), ready)
        for manifest in checkpoints.manifests():
            try:
                await self.ranks.load(checkpoints.folder(manifest.version), manifest.files)
            except (FileNotFoundError, DamagedFileError) as error:
                checkpoints.skip_damaged(manifest.version, error)
            else:
                self.timer.training_seconds = manifest.training_seconds
                return manifest
        if damaged := checkpoints.complete():
            raise UserError(
                f"none of the {len(damaged)} checkpoints in {checkpoints.location} can be read: restore one of them "
                "from a backup, or start again with policy.resume=never"
            )
        self.timer.training_seconds = 0.0
        return None

    async def accumulate(self, groups: Sequence[Awaitable[ScoredGroup]], version: int) -> list[ScoredGroup]:
        """Has every rank accumulate its share of the groups of one optimizer step, each as soon as it is scored.

        `version` is the policy version that learns from them. Rank r of R takes groups r, r+R, r+2R, … in order. If
        this raises, nothing of it is still running.
        """
        ranks, count = self.ranks, self.settings.learner.ranks
        shares = [
            asyncio.create_task(self._accumulate_on(ranks, rank, groups[rank::count], version)) for rank in range(count)
        ]
        try:
            learned = await asyncio.gather(*shares)
        finally:
            # If one share fails, the others must stop: they would feed the next learner with groups of this one.
            for share in shares:
                share.cancel()
            await asyncio.gather(*shares, return_exceptions=True)
        self.timer.ranks_waited([finished_at for _, finished_at in learned])
        return [group for share, _ in learned for group in share]

    async def _accumulate_on(
        self, ranks: LearnerGroup, rank: int, groups: Sequence[Awaitable[ScoredGroup]], version: int
    ) -> tuple[list[ScoredGroup], float]:
        """Gives one rank its groups. Returns them and the time when the rank was finished.

        A group whose trajectories were lost with their node is collected again.
        """
        learned: list[ScoredGroup] = []
        for group in groups:
            since = now()
            scored = await group
            self.timer.waited(since, scored.sampled_at)
            while True:
                try:
                    with self.timer.learning(ranks=1):
                        await ranks.accumulate(
                            rank, version, scored.advantages, scored.conditioning, scored.trajectories
                        )
                    break
                except ObjectLostError:
                    self.collector.reissued += 1
                    scored = await self.collector.collect(scored.group)
            learned.append(scored)
        return learned, now()

    async def optimizer_step(self, groups: Sequence[ScoredGroup]) -> OptimizerStepMetrics:
        """Makes one optimizer step from the accumulated gradients of `groups`.

        Raises RuntimeError after `policy.optimizer.max_empty_steps` steps in a row that changed nothing.
        """
        with self.timer.learning(self.settings.learner.ranks):
            step = await self.ranks.optimizer_step(self._grad_divisor(groups))
        self._empty_steps = 0 if step.applied else self._empty_steps + 1
        if self._empty_steps >= self.settings.optimizer.max_empty_steps:
            raise RuntimeError(
                f"{self._empty_steps} optimizer steps in a row changed nothing (policy.optimizer.max_empty_steps). The "
                f"last one had {step.samples} samples, loss {step.loss} and gradient norm {step.grad_norm}. If there "
                "are no samples, all scores of every group were equal or NaN: check the reward (scores_failed and "
                "reward_std in metrics.jsonl). If the norm is not finite, lower policy.optimizer.lr"
            )
        return step

    def _grad_divisor(self, groups: Sequence[ScoredGroup]) -> float:
        """1, or the std of the scores of all groups if policy.algorithm.advantage_std_over=batch."""
        algorithm = self.settings.algorithm
        if algorithm.advantage_std_over == "group":
            return 1.0
        return batch_std([(group.scores, group.advantages) for group in groups], algorithm.advantage_mean_over)

    async def publish(self) -> WeightsHandle:
        """Ends the iteration and publishes the weights of the next policy version."""
        with self.timer.publishing():
            await self.ranks.end_iteration()
            weights = await self.ranks.publish()
        self._restarts_without_progress = 0
        return weights

    async def current(self, averaged: bool = False) -> WeightsHandle:
        """Publishes the weights of the current policy version, or their moving average."""
        return await self.ranks.publish(averaged)

    def states(self) -> Mapping[str, ray.ObjectRef[bytes]]:
        """Returns file name -> reference of what a checkpoint holds."""
        return self.ranks.states()

    def stop(self) -> None:
        """Kills the learner."""
        self.ranks.stop()

"""The learner as the driver sees it: it accumulates groups, steps, publishes, and is restarted if it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from actors.files import DamagedFileError
from actors.grpo.batch_std import batch_std
from actors.grpo.learner import OptimizerStepMetrics
from actors.types import PolicyWeights
from actors.workers.faults import DeviceFault
from actors.workers.learner_group import LearnerGroup, LearnerLostError
from actors.workers.sampling_calls import WeightsHandle
from conf import UserError
from conf.policy import PolicySettings
from pipelines.common.cluster_state import ClusterState, read_cluster
from pipelines.common.resource_wait import wait_with_status
from pipelines.policy.accumulation import Accumulation
from pipelines.policy.checkpoint import Checkpoints, Manifest
from pipelines.policy.checkpoint_writer import States
from pipelines.policy.collector import GroupCollector, ScoredGroup
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
        record: Callable[[DeviceFault], object] = lambda fault: None,
    ) -> None:
        """`ranks` is the first learner. `start` asks Ray for another one and returns at once.

        `read` returns the state of the cluster. `record` gets the fault of a device that was the reason for a loss.
        """
        self.settings, self.collector, self.timer = settings, collector, timer
        self._start, self._log, self._read, self._record = start, log, read, record
        self.ranks = ranks
        self._ranks_sample = settings.placement == "colocated"
        self._version = 0
        self._stepped = False
        """Whether an optimizer step has changed the weights since they were published."""
        self.restarts = 0
        self.optimizer_note = ""
        """What happened to the optimizer's state when it was restored for other ranks or another engine; else ""."""
        self._restarts_without_progress = 0
        self._empty_steps = 0

    def restart(self, error: Exception) -> None:
        """Replaces a lost learner. Raises `error` if restarts did not help MAX_RESTARTS_WITHOUT_PROGRESS times.

        Raises UserError, with the fix, if the devices of the ranks are out of memory again and again.
        """
        if isinstance(error, LearnerLostError) and error.fault:
            self._record(error.fault)
        self.restarts += 1
        self._restarts_without_progress += 1
        if self._restarts_without_progress > MAX_RESTARTS_WITHOUT_PROGRESS:
            raise error
        self.collector.rollouts.leave()
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
        manifest = await self._load_newest(checkpoints)
        self._version, self._stepped = manifest.version if manifest else 0, False
        self.timer.training_seconds = manifest.training_seconds if manifest else 0.0
        if self._ranks_sample:
            rollouts.join(self.ranks.ranks)
        return manifest

    async def _load_newest(self, checkpoints: Checkpoints) -> Manifest | None:
        """Loads the newest complete checkpoint. Returns None if there is no checkpoint."""
        for manifest in checkpoints.manifests():
            try:
                await self.ranks.load(checkpoints.folder(manifest.version), manifest.files)
            except (FileNotFoundError, DamagedFileError) as error:
                checkpoints.skip_damaged(manifest.version, error)
            else:
                self.optimizer_note = await self.ranks.load_note()
                return manifest
        if damaged := checkpoints.complete():
            raise UserError(
                f"none of the {len(damaged)} checkpoints in {checkpoints.location} can be read: restore one of them "
                "from a backup, or start again with policy.resume=never"
            )
        return None

    async def accumulate(self, groups: Sequence[asyncio.Future[ScoredGroup]], version: int) -> list[ScoredGroup]:
        """Has every rank accumulate its share of the groups of one optimizer step; see Accumulation.

        `version` is the policy version that learns from them.
        """
        may_collect = not (self._ranks_sample and self._stepped)
        return await Accumulation(groups, self.ranks, self.collector, self.timer, version, may_collect).finish()

    async def wait_for_samples(self, groups: Sequence[asyncio.Future[ScoredGroup]]) -> None:
        """If the ranks sample, waits for all groups of the iteration: a step changes the weights that they sample with.

        A group may be sampled until it is scored, because it may be replaced.
        """
        if not self._ranks_sample:
            return
        since, rollouts = now(), self.collector.rollouts
        before = [rollouts.sampling_seconds(rank) for rank in self.ranks.ranks]
        sampled_at = [(await group).sampled_at for group in groups]
        for rank, seconds in zip(self.ranks.ranks, before, strict=True):
            self.timer.waited(since, max(sampled_at), rollouts.sampling_seconds(rank) - seconds)

    async def optimizer_step(self, groups: Sequence[ScoredGroup]) -> OptimizerStepMetrics:
        """Makes one optimizer step from the accumulated gradients of `groups`.

        Raises RuntimeError after `policy.optimizer.max_empty_steps` steps in a row that changed nothing.
        """
        with self.timer.learning(self.settings.learner.ranks):
            step = await self.ranks.optimizer_step(self._grad_divisor(groups))
        self._stepped = True
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
        """Ends the iteration and publishes the weights of the next policy version; see `current`."""
        with self.timer.publishing():
            self._version, self._stepped = await self.ranks.end_iteration(), False
            weights = await self.current()
        self._restarts_without_progress = 0
        return weights

    async def current(self, averaged: bool = False) -> WeightsHandle:
        """Names the weights of the current policy version, or their moving average, for those who sample.

        They are put into the object store, unless only the ranks sample, which have them.
        """
        if self._ranks_sample and not self.settings.rollout.max_actors:
            return WeightsHandle(self._version, averaged, None)
        return await self.ranks.publish(averaged)

    async def weights(self, averaged: bool = False) -> PolicyWeights:
        """The weights of the current policy version, or their moving average."""
        handle = await self.ranks.publish(averaged)
        assert handle.reference
        return await handle.reference

    def states(self) -> States:
        """Returns file name -> reference of what a checkpoint holds."""
        return self.ranks.states()

    def stop(self) -> None:
        """Kills the learner."""
        self.ranks.stop()

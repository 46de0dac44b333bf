"""The parts of one training run, and what happens between its iterations: restore, record, checkpoint, evaluate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import count

from actors.grpo.learner import OptimizerStepMetrics
from actors.policy.plan import SamplingPlan
from actors.types import PolicyWeights
from conf.settings import Settings
from pipelines.common.lease import check_lease
from pipelines.common.paths import run_paths
from pipelines.common.prompts import draw_held_out_prompts, draw_training_prompts
from pipelines.policy.checkpoint import Manifest, run_checkpoints
from pipelines.policy.checkpoint_writer import AsyncCheckpointWriter
from pipelines.policy.cluster import Cluster, RayCluster
from pipelines.policy.collector import GroupCollector, Rewards, ScoredGroup
from pipelines.policy.evaluation_history import best_evaluation, with_history
from pipelines.policy.held_out import HeldOutEvaluation
from pipelines.policy.learner_client import LearnerClient
from pipelines.policy.lineage import Change, record_changes
from pipelines.policy.metrics import read_evaluations
from pipelines.policy.progress import Counters, ProgressPrinter, iteration_row
from pipelines.policy.resume import START, changes_since, keep_start, run_identity
from pipelines.policy.rollout_pool import RolloutPool
from pipelines.policy.run_log import RunLog
from pipelines.policy.start_weights import keep_start_lora
from pipelines.policy.supervised_learner import SupervisedLearner
from pipelines.policy.supervised_rewards import SupervisedRewards
from pipelines.policy.supervision import Supervision
from pipelines.policy.timeline import Timelines
from pipelines.policy.timing import IterationTimer
from pipelines.policy.utilization import UtilizationMonitor
from pipelines.scenes.checker import can_check


class TrainingRun:
    """Everything that `train` uses. Make it inside the event loop, and `close` it in the end."""

    def __init__(
        self, settings: Settings, rewards: Rewards, log: Callable[[str], None], cluster: Cluster | None = None
    ) -> None:
        """Asks the cluster (None: Ray's) for the learner and the rollout actors, and returns at once."""
        policy = settings.policy
        self.checkpoints = run_checkpoints(settings)
        self._start = keep_start_lora(settings, self.checkpoints)
        cluster = cluster or RayCluster(settings, self._start.lora if self._start else None)
        self.settings, self.policy, self._log = settings, policy, log
        self.timer = IterationTimer(policy.learner.ranks)
        self._paths = run_paths(settings)
        self.run_log = RunLog(self._paths)
        self._timelines = Timelines(policy.profile_iterations, self._paths.profiles)
        supervision = Supervision(policy.call_margin_s, cluster.avoid)
        self._supervision, start_learner = supervision, lambda: SupervisedLearner(cluster.start_learner(), supervision)
        ranks = start_learner()  # before the rollout actors, which may take all remaining resources
        number = count()
        self.rollouts = RolloutPool(
            lambda: cluster.start_rollout(next(number)),
            policy.rollout.max_actors,
            policy.rollout.min_actors,
            cluster.kill,
            self._supervision,
            cluster.join_images,
        )
        rewards = SupervisedRewards(rewards, self._supervision)
        prompts = draw_training_prompts(policy, settings.flux)
        self.collector = GroupCollector(self.rollouts, rewards, prompts, policy)
        self.learner = LearnerClient(
            policy, ranks, start_learner, self.collector, self.timer, log, cluster.state, supervision.faults.record
        )
        self._held_out = HeldOutEvaluation(
            self.rollouts,
            rewards,
            draw_held_out_prompts(policy, settings.flux, settings.evaluation.seed),
            SamplingPlan.for_evaluation(settings.evaluation, policy.sampling.batch),
            settings.evaluation.seed,
            exact=can_check(settings.flux),
            diversity_prompts=policy.evaluation.diversity_prompts,
        )
        self._identity = run_identity(settings) | {START: self._start.fingerprint if self._start else ""}
        self._state = ""
        self._writer = AsyncCheckpointWriter(self.checkpoints, log, cluster.write_checkpoint, self._supervision)
        self._progress = ProgressPrinter(settings, log)
        self._utilization = UtilizationMonitor(settings, self.collector, log, read=cluster.state)
        self._stall_reports = asyncio.create_task(self._utilization.report_stalls())

    def state(self) -> str:
        """What is under way, for the progress line. "" while the models are loaded."""
        scored, groups = self.collector.finished_groups(), self.policy.prompts_per_iteration
        return f"{self._state}: {scored} of {groups} groups scored" if "iteration" in self._state else self._state

    @property
    def version(self) -> int:
        """The newest published policy version."""
        return self.collector.weights.version

    def finished(self) -> bool:
        """Whether the last policy version is published, or `policy.minutes` of training are over."""
        out_of_time = 0 < self.policy.minutes * 60 <= self.timer.training_seconds
        return self.version >= self.policy.iterations or out_of_time

    def split_by_optimizer_step(
        self, groups: Sequence[asyncio.Task[ScoredGroup]]
    ) -> Iterator[Sequence[asyncio.Task[ScoredGroup]]]:
        """Yields the groups of each optimizer step of an iteration, in order and of equal number."""
        size = len(groups) // self.policy.optimizer.steps_per_iteration
        return (groups[start : start + size] for start in range(0, len(groups), size))

    async def restore(self) -> None:
        """Restores the newest complete checkpoint, or starts at version 0. Later rows of the log are dropped.

        What changed since the checkpoint was written is logged, and recorded in the run's lineage. Raises UserError if
        such a change is refused.
        """
        self.collector.cancel()
        await self._writer.finish()
        manifest = await self.learner.restore(self.checkpoints)
        self.collector.restart_from(await self.learner.current())
        changes = self._changes(manifest)
        self.run_log.truncate_after(self.version if manifest else -1)
        record_changes(self._paths.lineage, self.version, changes)
        if manifest:
            self._log(f"continues from version {self.version}{' with changes:' if changes else ''}")
        for change in changes:
            self._log(f"  {change}")
        if not self.run_log.has_evaluation(self.version):
            await self.evaluate_if_due()

    def _changes(self, manifest: Manifest | None) -> list[Change]:
        """What is not as in the checkpoint that the run continues from, or what a new run starts from."""
        if manifest is None:
            return [Change("policy.start_from", "", self.policy.start_from, self._start.note)] if self._start else []
        changes = changes_since(manifest, self.settings, self._identity)
        self._identity = keep_start(self._identity, manifest)
        optimizer = self.learner.optimizer_note
        return [*changes, Change("the optimizer's state", "", optimizer)] if optimizer else changes

    @contextmanager
    def measure_iteration(self) -> Generator[None]:
        """Measures wall-clock time and utilization of its body, one iteration."""
        self._state = f"iteration {self.version + 1}/{self.policy.iterations}"
        self.timer.start()
        self._utilization.begin()
        with self._timelines.iteration(self.version + 1):
            yield
        self.timer.stop()

    def record(self, groups: Sequence[ScoredGroup], steps: Sequence[OptimizerStepMetrics]) -> None:
        """Writes the iteration's row to metrics.jsonl and prints its progress line."""
        counters = Counters.of(self.collector, self.learner.restarts, self._supervision)
        row = iteration_row(self.version, self.timer, groups, steps, self._utilization.end(), counters)
        self.run_log.iteration(row)
        self._progress.iteration(row)

    async def checkpoint_if_due(self) -> None:
        """Starts writing a checkpoint in the background every `policy.checkpoint.every` iterations and at the end.

        Also before each evaluation, so that every evaluated version can be kept if it is the best one.
        """
        if self._is_due(self.policy.checkpoint.every) or self._evaluation_is_due():
            check_lease(self._paths.lease)
            await self._writer.finish()  # so that the checkpoint before this one counts
            manifest = Manifest(self.version, self.timer.training_seconds, self._identity)
            await self._writer.start(manifest, self.learner.states(), pinned=self._best_versions())

    def _best_versions(self) -> list[int]:
        """The version of the best evaluation whose checkpoint exists, if there is one."""
        rows = read_evaluations(self._paths.evaluations)
        kept = self.checkpoints.complete() if rows else []
        best = best_evaluation(rows, self.policy.evaluation.best_by, kept)
        return [best.iteration] if best else []

    def _evaluation_is_due(self) -> bool:
        return self._is_due(self.policy.evaluation.every) and len(self._held_out.prompts) > 0

    async def evaluate_if_due(self) -> None:
        """Evaluates the averaged weights on held-out prompts every `policy.evaluation.every` iterations.

        The time that it takes is not training time.
        """
        if self._evaluation_is_due():
            weights = await self.learner.current(averaged=True)
            self._state = f"evaluating version {self.version} on held-out prompts"
            row, images = await self._held_out.run(weights, self.timer.training_seconds)
            row = with_history(row, read_evaluations(self._paths.evaluations), self.policy.evaluation.best_by)
            self.run_log.evaluation(row, images)
            self._progress.evaluation(row)

    def _is_due(self, every: int) -> bool:
        """Whether the version is a multiple of `every` or the last one. 0: never."""
        return every > 0 and (self.version % every == 0 or self.finished())

    async def final_weights(self) -> PolicyWeights:
        """Waits for the last checkpoint and returns the weights to export."""
        await self._writer.finish()
        return await self.learner.weights(averaged=self.settings.evaluation.use_ema)

    def close(self) -> None:
        """Stops everything that the run started."""
        self._timelines.close()  # before the processes that report to it end
        self._stall_reports.cancel()
        self.collector.cancel()
        self.learner.stop()
        self.rollouts.stop()
        self.run_log.close()

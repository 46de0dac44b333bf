"""The driver: draw -> sample -> score -> filter -> learn -> publish -> checkpoint.

It holds references and scores; images, latents and gradients stay on the actors. One rule bounds staleness: a group
starts only while `started < (version + 1 + max_staleness) * prompts_per_step`. With 0 every group is sampled by the
weights that learn from it; with 1 the next step's groups are sampled while this step's are learned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ray.exceptions import ObjectLostError

from actors.grpo.learner import OptimizerStepMetrics
from actors.types import PolicyWeights, Prompt
from actors.workers.learner import LearnerLostError
from actors.workers.rollout import WeightsHandle
from conf.settings import Settings
from pipelines.policy.checkpoint import AsyncCheckpointWriter, Checkpoints, Manifest, run_identity
from pipelines.policy.collector import GroupCollector, ScoredGroup, plan_group
from pipelines.policy.held_out import HeldOutEvaluation
from pipelines.policy.learner_client import LearnerClient
from pipelines.policy.metrics import RunLog
from pipelines.policy.progress import Counters, ProgressPrinter, iteration_row
from pipelines.policy.utilization import UtilizationMonitor


class PolicyLoop:
    """One run of stage 3, from its newest checkpoint to its last iteration."""

    def __init__(
        self, settings: Settings, prompts: Sequence[Prompt], groups: GroupCollector, learning: LearnerClient,
        held_out: HeldOutEvaluation, checkpoints: Checkpoints, log: RunLog, progress: ProgressPrinter,
    ) -> None:  # fmt: skip
        self.settings, self.policy, self.prompts = settings, settings.policy, prompts
        self.groups, self.learning, self.held_out, self.log, self.progress = groups, learning, held_out, log, progress
        self.lineage = run_identity(settings)
        self.checkpoints, self.writes = checkpoints, AsyncCheckpointWriter(checkpoints, progress.say)
        self.clock, self.watch = learning.clock, UtilizationMonitor(settings, groups, progress.say)
        self.standing_by = asyncio.create_task(self.watch.report_stalls())
        self.tasks: dict[tuple[int, int], asyncio.Task[ScoredGroup]] = {}

    async def run(self) -> PolicyWeights:
        """Trains until `iterations` versions are published or `minutes` of training are spent. Returns the weights."""
        restored = False
        while True:
            try:
                if not restored:
                    await self.restore()
                    restored = True
                while not self.finished():
                    await self.iterate()
                await self.writes.finish()
                final = await self.learning.publish(self.settings.evaluation.use_ema)
                return await final.reference
            except (LearnerLostError, ObjectLostError) as error:  # of objects, only weights: others are made again
                self.learning.restart(error)
                restored = False

    def finished(self) -> bool:
        """Whether the last iteration is done, or the time is up."""
        out_of_time = 0 < self.policy.minutes * 60 <= self.clock.training_seconds
        return self.version >= self.policy.iterations or out_of_time

    async def restore(self) -> None:
        """Brings the learner to the newest whole checkpoint, or to the start, and rewinds everything to its version."""
        self.cancel_groups()
        await self.writes.finish()
        newest = await self.learning.restore(self.checkpoints)
        self.weights = await self.learning.publish()
        self.version = self.weights.version
        self.started = self.version * self.policy.prompts_per_iteration
        self.log.truncate_after(self.version if newest else -1)
        if self.is_due(self.policy.evaluation.every) and not self.log.has_evaluation(self.version):
            await self.evaluate()

    async def iterate(self) -> None:
        """One policy version."""
        self.clock.start()
        self.watch.begin()
        self.start_groups()
        learned, updates = [], []
        for update in range(self.policy.optimizer.steps_per_iteration):
            groups = await self.learn(update)
            updates.append(await self.learning.step(groups))
            learned += groups
        self.weights = await self.learning.advance()
        self.clock.stop()
        self.version = self.weights.version
        self.report(learned, updates)
        if self.is_due(self.policy.checkpoint.every):
            manifest = Manifest(self.version, self.clock.training_seconds, self.lineage)
            await self.writes.start(manifest, self.learning.states())
        if self.is_due(self.policy.evaluation.every):
            await self.evaluate()

    def is_due(self, every: int) -> bool:
        """Whether the present version is one of every so many, or the last; never with 0."""
        return every > 0 and (self.version % every == 0 or self.finished())

    def start_groups(self) -> None:
        """Starts every group that the staleness rule allows: each is sampled, scored and filtered as a task."""
        allowed = (self.version + 1 + self.policy.max_staleness) * self.policy.prompts_per_iteration
        while self.started < min(allowed, len(self.prompts)):
            numbers = range(self.started, self.started + self.policy.sampling_groups)
            together = [plan_group(number, self.prompts, self.policy) for number in numbers]
            for group, task in zip(together, self.groups.start(together, self.current_weights), strict=True):
                self.tasks[group.iteration, group.index] = task
            self.started += len(together)

    def current_weights(self) -> WeightsHandle:
        """What a group is sampled with: the newest version when its turn comes."""
        return self.weights

    async def learn(self, update: int) -> list[ScoredGroup]:
        """Learns the groups of one update as they come in."""
        size = self.policy.prompts_per_iteration // self.policy.optimizer.steps_per_iteration
        names = [(self.version, update * size + index) for index in range(size)]
        learned = await self.learning.learn([self.tasks[name] for name in names], self.version, self.current_weights)
        for name in names:
            del self.tasks[name]
        return learned

    def report(self, learned: Sequence[ScoredGroup], updates: Sequence[OptimizerStepMetrics]) -> None:
        """Writes the iteration's row and its line."""
        counters = Counters.of(self.groups, self.learning.restarts)
        row = iteration_row(self.version, self.clock, learned, updates, self.watch.end(), counters)
        self.log.iteration(row)
        self.progress.iteration(row)

    async def evaluate(self) -> None:
        """Judges the moving average on held-out prompts; the training clock stands still."""
        if self.held_out.prompts:
            weights = await self.learning.publish(averaged=True)
            row, pictures = await self.held_out.run(weights, self.clock.training_seconds)
            self.log.evaluation(row, pictures)
            self.progress.evaluation(row)

    def stop(self) -> None:
        """Ends everything that the loop started."""
        self.standing_by.cancel()
        self.cancel_groups()
        self.learning.stop()

    def cancel_groups(self) -> None:
        """Drops groups that are under way."""
        for task in self.tasks.values():
            task.cancel()
        self.tasks.clear()

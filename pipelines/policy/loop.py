"""The driver: draw -> sample -> score -> filter -> learn -> publish -> checkpoint.

It holds references and scores; images, latents and gradients stay on the actors. One rule bounds staleness: a group
starts only while `started < (version + 1 + max_staleness) * prompts_per_step`. With 0 every group is sampled by the
weights that learn from it; with 1 the next step's groups are sampled while this step's are learned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ray.exceptions import ObjectLostError

from actors.flux.plan import SamplingPlan
from actors.grpo.update import UpdateMetrics
from actors.learner import LearnerGroup, LearnerLostError
from actors.records import Prompt
from actors.rollout import WeightsHandle
from conf.settings import Settings
from pipelines.policy.checkpoint import BackgroundWrites, Checkpoints, Manifest, arithmetic_of
from pipelines.policy.clock import Clock
from pipelines.policy.groups import Group, GroupMaker, ScoredGroup
from pipelines.policy.held_out import HeldOutEvaluation
from pipelines.policy.metrics import RunLog
from pipelines.policy.patience import patiently
from pipelines.policy.seeds import group_seeds
from pipelines.policy.summary import Counters, Progress, iteration_row

MAX_FRUITLESS_RESTARTS = 5


class PolicyLoop:
    """One run of stage 3, from its newest checkpoint to its last iteration."""

    def __init__(
        self,
        settings: Settings,
        prompts: list[Prompt],
        groups: GroupMaker,
        start_learner: Callable[[], LearnerGroup],
        held_out: HeldOutEvaluation,
        checkpoints: Checkpoints,
        log: RunLog,
        progress: Progress,
    ) -> None:
        self.settings, self.policy = settings, settings.policy
        self.prompts, self.groups, self.start_learner = prompts, groups, start_learner
        self.held_out, self.checkpoints, self.log, self.progress = held_out, checkpoints, log, progress
        self.writes = BackgroundWrites(checkpoints, progress.say)
        self.clock = Clock()
        self.tasks: dict[tuple[int, int], asyncio.Task[ScoredGroup]] = {}
        self.learner = start_learner()
        self.restarts, self.fruitless_restarts, self.idle_updates = 0, 0, 0

    async def run(self) -> None:
        """Trains until `iterations` versions are published or `minutes` of training are spent."""
        ready = False
        while not (ready and self.finished()):
            try:
                await (self.iterate() if ready else self.restore())
                ready = True
            except (LearnerLostError, ObjectLostError):  # of objects, only the weights: others are made again
                self.restarts += 1
                self.fruitless_restarts += 1
                if self.fruitless_restarts > MAX_FRUITLESS_RESTARTS:
                    raise
                self.learner.stop()
                self.learner = self.start_learner()
                ready = False
        self.cancel_groups()
        await self.writes.finish()

    def finished(self) -> bool:
        """Whether the last iteration is done, or the time is up."""
        out_of_time = 0 < self.policy.minutes * 60 <= self.clock.training_seconds
        return self.version >= self.policy.iterations or out_of_time

    async def restore(self) -> None:
        """Starts the learner from the newest complete checkpoint, or anew, and rewinds everything to its version."""
        self.cancel_groups()
        await self.writes.finish()
        newest = self.checkpoints.newest()
        policy, folder = self.policy, self.checkpoints.folder(newest.version) if newest else ""
        what = f"{policy.learner_ranks} learner ranks of {policy.learner_cpus:g} CPUs and {policy.learner_gpus:g} GPUs"
        self.version = await patiently(self.learner.start(folder), what, self.progress.say)
        self.clock.training_seconds = newest.training_seconds if newest else 0.0
        self.weights = await self.learner.publish()
        self.started = self.version * self.policy.prompts_per_step
        self.log.rewind(self.version if newest else -1)
        if not newest:
            await self.evaluate()

    async def iterate(self) -> None:
        """One policy version."""
        self.clock.start()
        self.start_groups()
        learned, updates = [], []
        for update in range(self.policy.updates_per_iteration):
            learned += await self.learn(update)
            with self.clock.learning():
                updates.append(await self.learner.step())
        with self.clock.publishing():
            self.weights = await self.learner.advance()
        self.clock.stop()
        self.check_updates(updates)
        self.version, self.fruitless_restarts = self.weights.version, 0
        row = iteration_row(self.version, self.clock, learned, updates, self.counters())
        self.log.iteration(row)
        self.progress.iteration(row)
        if self.version % self.policy.checkpoint_every == 0 or self.finished():
            await self.checkpoint()
        if self.policy.evaluate_every and (self.version % self.policy.evaluate_every == 0 or self.finished()):
            await self.evaluate()

    def start_groups(self) -> None:
        """Starts every group that the staleness rule allows: each draws, samples, scores and filters as a task."""
        size = self.policy.prompts_per_step
        allowed = (self.version + 1 + self.policy.max_staleness) * size
        while self.started < min(allowed, len(self.prompts)):
            step, index = divmod(self.started, size)
            seeds = group_seeds(self.policy.seed, step, index, self.policy.group_size)
            group = Group(step, index, self.prompts[self.started], seeds, SamplingPlan.for_training(self.policy, step))
            self.tasks[step, index] = asyncio.create_task(self.groups.make(group, self.current_weights))
            self.started += 1

    def current_weights(self) -> WeightsHandle:
        """What a group is sampled with: the newest version when its turn comes."""
        return self.weights

    async def learn(self, update: int) -> list[ScoredGroup]:
        """Has every rank accumulate its groups of one update, in order, as soon as they are scored."""
        size = self.policy.prompts_per_step // self.policy.updates_per_iteration
        ranks = self.policy.learner_ranks
        indices = range(update * size, (update + 1) * size)
        shares = await asyncio.gather(*(self.feed(indices[rank::ranks], rank) for rank in range(ranks)))
        return [group for share in shares for group in share]

    async def feed(self, indices: range, rank: int) -> list[ScoredGroup]:
        """Gives one rank its groups. A group whose trajectories were lost with their node is sampled again."""
        learned = []
        for index in indices:
            scored = await self.tasks.pop((self.version, index))
            while True:
                try:
                    with self.clock.learning():
                        await self.learner.accumulate(rank, scored.advantages, scored.conditioning, scored.trajectories)
                    break
                except ObjectLostError:
                    self.groups.lost += 1
                    scored = await self.groups.make(scored.group, self.current_weights)
            learned.append(scored)
        return learned

    def check_updates(self, updates: list[UpdateMetrics]) -> None:
        """Raises RuntimeError once `max_idle_updates` in a row have changed nothing."""
        for update in updates:
            self.idle_updates = 0 if update.applied else self.idle_updates + 1
        if self.idle_updates >= self.policy.max_idle_updates:
            last = updates[-1]
            raise RuntimeError(
                f"{self.idle_updates} updates in a row changed nothing (policy.max_idle_updates); the last one had "
                f"{last.samples} samples, loss {last.loss} and gradient norm {last.grad_norm}. Without samples no "
                "group's scores differ; where the norm is not finite, lower policy.lr or look at the reward"
            )

    async def checkpoint(self) -> None:
        """Begins to write the present version."""
        manifest = Manifest(self.version, self.clock.training_seconds, arithmetic_of(self.settings))
        await self.writes.start(manifest, self.learner.states())

    async def evaluate(self) -> None:
        """Judges the moving average on held-out prompts; the training clock stands still."""
        if self.policy.evaluate_every and self.held_out.prompts:
            weights = await self.learner.publish(averaged=True)
            row, pictures = await self.held_out.run(weights, self.clock.training_seconds)
            self.log.evaluation(row, pictures)
            self.progress.evaluation(row)

    def counters(self) -> Counters:
        """What was mended since the run began."""
        rollouts = self.groups.rollouts
        return Counters(
            rollouts.reissued + self.groups.lost,
            rollouts.replaced,
            self.restarts,
            self.groups.rewards.retries,
            self.groups.replaced,
        )

    def stop(self) -> None:
        """Ends everything that the loop started."""
        self.cancel_groups()
        self.learner.stop()

    def cancel_groups(self) -> None:
        """Drops groups that are under way."""
        for task in self.tasks.values():
            task.cancel()
        self.tasks.clear()

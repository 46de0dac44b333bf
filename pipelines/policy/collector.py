"""How a group becomes training data: sample -> score -> select, one asyncio task for each group.

The driver holds references and scores only. Images, latents and gradients stay on the actors and in the object store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import ray
from ray.exceptions import ObjectLostError

from actors.grpo.advantages import Advantages, group_advantages
from actors.policy.plan import SamplingPlan
from actors.types import Conditioning, Prompt, SampleReport, Scores, Trajectory
from actors.workers.sampling_calls import WeightsHandle
from conf.policy import PolicySettings
from pipelines.common.seeds import group_seeds
from pipelines.policy.resources import Replicas
from pipelines.policy.rollout_pool import RolloutPool
from pipelines.policy.timing import TimeWeightedGauge, now


class Rewards(Protocol):
    """What stage 3 needs of its rewards."""

    @property
    def retries(self) -> int:
        """Number of scoring calls that were repeated."""
        ...

    async def score(self, images: ray.ObjectRef[np.ndarray], prompts: tuple[str, ...]) -> Scores:
        """The training reward of the images of one group, a reference to uint8 [B, H, W, 3], under one prompt each."""
        ...

    async def score_held_out(self, images: ray.ObjectRef[np.ndarray], prompts: tuple[str, ...]) -> Scores:
        """The weighted sum of the rewards for held-out images, with those that train as its parts."""
        ...

    async def watch(self, images: ray.ObjectRef[np.ndarray], prompts: tuple[str, ...]) -> dict[str, Scores]:
        """The scores of the rewards that do not train, by name. None of their failures raises; they give NaN."""
        ...

    async def replicas(self) -> Sequence[Replicas]:
        """The running replicas of each reward. Raises RayError while Serve's controller is unavailable."""
        ...


@dataclass(frozen=True)
class Group:
    """One prompt's group in one iteration: all that is needed to sample it, and to sample it again."""

    iteration: int
    index: int
    """Number of the prompt in the iteration, from 0 to P-1."""
    prompt: Prompt
    seeds: tuple[int, ...]
    """One seed for each of the G images."""
    plan: SamplingPlan
    resamples: int = 0
    """How often it was replaced by another prompt because no advantages could be computed."""


@dataclass(frozen=True)
class ScoredGroup:
    """What the learner gets of a group: the advantages of the selected images and references to their trajectories."""

    group: Group
    scores: np.ndarray  # [G]
    advantages: Advantages
    conditioning: ray.ObjectRef[Conditioning]
    trajectories: tuple[ray.ObjectRef[Trajectory], ...]
    """Those of `advantages.kept`; the references to the others are dropped, so Ray frees them."""
    report: SampleReport
    sampled_at: float
    score_seconds: float
    """From the images to their scores."""
    reward_parts: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    """The scores [G] of each reward by its name, if the rewards say them."""


class ImagesLostError(RuntimeError):
    """The node that held a group's images died before they were scored."""


def plan_group(number: int, prompts: Sequence[Prompt], settings: PolicySettings) -> Group:
    """Returns the run's group `number`. Its prompt, seeds and plan follow from the settings alone."""
    iteration, index = divmod(number, settings.prompts_per_iteration)
    seeds = group_seeds(settings.seed, iteration, index, settings.group_size)
    return Group(iteration, index, prompts[number], seeds, SamplingPlan.for_training(settings, iteration))


def groups_allowed(version: int, settings: PolicySettings) -> int:
    """The staleness rule: how many groups of the run may have been launched at policy version `version`.

    With max_staleness 0 every group is sampled by the weights that learn from it. With 1 the groups of the next
    iteration are sampled while those of this iteration are learned.
    """
    return (version + 1 + settings.max_staleness) * settings.prompts_per_iteration


class GroupCollector:
    """Launches groups and collects them. Lost images are sampled again; groups without spread are replaced."""

    def __init__(
        self, rollouts: RolloutPool, rewards: Rewards, prompts: Sequence[Prompt], settings: PolicySettings
    ) -> None:
        """`prompts` are those of the whole run, in order. Set `weights` before the first `launch`."""
        self.rollouts, self.rewards, self.prompts, self.settings = rollouts, rewards, prompts, settings
        self.weights: WeightsHandle
        """The weights that groups are sampled with from now on."""
        self.scoring = TimeWeightedGauge()
        """Number of groups that wait for their scores."""
        self.reissued = 0
        """Groups that were sampled again because a node died with their images or trajectories."""
        self.resampled = 0
        """Groups that were replaced by another prompt because no advantages could be computed."""
        self._launched = 0
        self._planned: dict[int, Group] = {}
        """Groups by number that may not be launched yet."""
        self._planning: asyncio.Task[None] | None = None
        self._tasks: dict[tuple[int, int], asyncio.Task[ScoredGroup]] = {}

    def launch(self) -> list[asyncio.Task[ScoredGroup]]:
        """Launches every group that the staleness rule allows. Returns the tasks of this iteration, in order."""
        version, per_iteration = self.weights.version, self.settings.prompts_per_iteration
        self._tasks = {key: task for key, task in self._tasks.items() if key[0] >= version}
        while self._launched < min(groups_allowed(version, self.settings), len(self.prompts)):
            group = self._planned.pop(self._launched, None) or self._plan(self._launched)
            self._tasks[group.iteration, group.index] = asyncio.create_task(self.collect(group))
            self._launched += 1
        self._planning = asyncio.create_task(self._plan_ahead(groups_allowed(version + 1, self.settings)))
        return [self._tasks[version, index] for index in range(per_iteration)]

    def _plan(self, number: int) -> Group:
        return plan_group(number, self.prompts, self.settings)

    async def _plan_ahead(self, end: int) -> None:
        """Plans groups up to number `end`, one at a time, while this iteration is under way.

        Then the workers need not wait for it at the start of the next iteration.
        """
        for number in range(self._launched, min(end, len(self.prompts))):
            if number not in self._planned:
                self._planned[number] = self._plan(number)
            await asyncio.sleep(0)

    def finished_groups(self) -> int:
        """Groups of this iteration that are scored. It may be called in another thread."""
        return sum(task.done() for key, task in list(self._tasks.items()) if key[0] == self.weights.version)

    def restart_from(self, weights: WeightsHandle) -> None:
        """Cancels all groups and continues with the first group of the iteration that `weights` belong to."""
        self.cancel()
        self.weights = weights
        self._launched = weights.version * self.settings.prompts_per_iteration

    def cancel(self) -> None:
        """Cancels all groups that are under way."""
        if self._planning:
            self._planning.cancel()
        self._planned.clear()
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    async def collect(self, group: Group) -> ScoredGroup:
        """Collects a group, again if its images are lost, and with another prompt if it is skipped."""
        while True:
            try:
                scored = await self._collect_once(group)
            except ImagesLostError:
                self.reissued += 1
                continue
            if not scored.advantages.skipped or group.resamples >= self.settings.algorithm.max_resamples:
                return scored
            self.resampled += 1
            group = self._replacement(group)

    async def _collect_once(self, group: Group) -> ScoredGroup:
        """Sample -> score -> select: one prompt's G images, cut to the 2k that are trained on (paper, Fig. 4)."""
        priority = (group.iteration, group.index)
        sampled = await self.rollouts.sample_group(
            priority, group.prompt.text, group.seeds, lambda: self.weights, group.plan
        )
        scores = await self._score(group, sampled.images)
        score_seconds = now() - sampled.sampled_at
        advantages = group_advantages(scores.mu, self.settings.algorithm)  # select_top_k, then standardize
        kept = tuple(sampled.trajectories[i] for i in advantages.kept)
        return ScoredGroup(
            group=group,
            scores=scores.mu,
            advantages=advantages,
            conditioning=sampled.conditioning,
            trajectories=kept,
            report=sampled.report,
            sampled_at=sampled.sampled_at,
            score_seconds=score_seconds,
            reward_parts={name: part.mu for name, part in scores.parts.items()},
        )

    async def _score(self, group: Group, images: ray.ObjectRef[np.ndarray]) -> Scores:
        """Raises ImagesLostError if the images are lost."""
        self.scoring.add(1)
        try:
            return await self.rewards.score(images, (group.prompt.text,) * len(group.seeds))
        except ObjectLostError as error:
            raise ImagesLostError(f"the images of {group.prompt.text!r} are lost") from error
        finally:
            self.scoring.add(-1)

    def _replacement(self, group: Group) -> Group:
        """Returns the group with another prompt and other seeds, drawn from its own seeds: always the same ones."""
        rng = np.random.default_rng(group.seeds)
        prompt = self.prompts[int(rng.integers(len(self.prompts)))]
        seeds = tuple(rng.integers(2**62, size=len(group.seeds)).tolist())
        return replace(group, prompt=prompt, seeds=seeds, resamples=group.resamples + 1)

"""A group's way: sampled, alone or with others, then scored and filtered, as often as it takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import ray
from ray.exceptions import ObjectLostError

from actors.grpo.advantages import Advantages, group_advantages
from actors.policy.plan import SamplingPlan
from actors.types import Prompt, Scores
from actors.workers.rollout import SampleReport, WeightsHandle
from conf.policy import PolicySettings
from pipelines.common.seeds import group_seeds
from pipelines.policy.resources import Replicas
from pipelines.policy.rollout_pool import RolloutPool
from pipelines.policy.timing import TimeWeightedGauge


class RewardPool(Protocol):
    """What the loop asks of a reward: the pool of SpatialScore replicas, or anything else that scores by reference."""

    @property
    def retries(self) -> int:
        """Calls that had to be made again."""
        ...

    async def score(self, images: ray.ObjectRef, texts: tuple[str, ...]) -> Scores:
        """Scores uint8 [B, H, W, 3] images, given as a reference, against one text each."""
        ...

    async def replicas(self) -> Sequence[Replicas]:
        """The running replicas of each of its rewards. Raises what the pool's controller raises while it is away."""
        ...


@dataclass(frozen=True)
class Group:
    """One prompt's group at one step of the run: all that is needed to sample it, and to sample it again."""

    iteration: int
    index: int  # of the prompt within the step
    prompt: Prompt
    seeds: tuple[int, ...]
    plan: SamplingPlan
    resamples: int = 0  # times it was replaced for want of spread


def plan_group(number: int, prompts: Sequence[Prompt], settings: PolicySettings) -> Group:
    """A run's group of this number: its prompt, seeds and plan follow from the settings alone."""
    step, index = divmod(number, settings.prompts_per_iteration)
    seeds = group_seeds(settings.seed, step, index, settings.group_size)
    return Group(step, index, prompts[number], seeds, SamplingPlan.for_training(settings, step))


@dataclass(frozen=True)
class Seat:
    """A group's place among those that are sampled in one call, and so in forwards of one shape."""

    call: tuple[Group, ...]
    number: int

    @property
    def group(self) -> Group:
        """Whose place it is."""
        return self.call[self.number]


@dataclass(frozen=True)
class SampledGroup:
    """What a rollout actor made of a group, as references."""

    report: SampleReport
    images: ray.ObjectRef
    conditioning: ray.ObjectRef
    trajectories: list[ray.ObjectRef]
    at: float  # time.perf_counter() when it was there


@dataclass(frozen=True)
class ScoredGroup:
    """What the learner gets of a group: references to what it kept, and why."""

    seat: Seat
    scores: np.ndarray  # [G]
    advantages: Advantages
    conditioning: ray.ObjectRef
    trajectories: tuple[ray.ObjectRef, ...]  # of `advantages.kept`; the others are freed
    report: SampleReport
    sampled_at: float  # time.perf_counter() when the images were there
    score_seconds: float  # from then to their scores


def advantages_of(scores: np.ndarray, settings: PolicySettings, divisor: float | None = None) -> Advantages:
    """`group_advantages` as the run's settings have it."""
    return group_advantages(
        scores, settings.algorithm.top_k, settings.algorithm.advantage_mean_over, settings.advantage_clip, divisor
    )


class GroupCollector:
    """Draws groups through a rollout pool and a reward pool."""

    def __init__(
        self, rollouts: RolloutPool, rewards: RewardPool, prompts: Sequence[Prompt], settings: PolicySettings
    ) -> None:
        """`prompts` are those that replace the prompts of groups without spread."""
        self.rollouts, self.rewards, self.prompts, self.settings = rollouts, rewards, prompts, settings
        self.scoring = TimeWeightedGauge()  # groups whose scores are awaited
        self.lost = 0  # groups sampled again because a node took their images or trajectories with it
        self.replaced = 0  # groups without spread

    def start(self, groups: Sequence[Group], weights: Callable[[], WeightsHandle]) -> list[asyncio.Task[ScoredGroup]]:
        """Samples groups of one plan together; from there each goes its own way, as a task."""
        call = tuple(groups)
        sampled = asyncio.create_task(self._sample(call, weights))
        return [asyncio.create_task(self._make(Seat(call, number), weights, sampled)) for number in range(len(call))]

    async def resample(self, seat: Seat, weights: Callable[[], WeightsHandle]) -> ScoredGroup:
        """The same group once more, from sampling on."""
        return await self._make(seat, weights, self._sample(seat.call, weights))

    async def _sample(self, call: Sequence[Group], weights: Callable[[], WeightsHandle]) -> list[SampledGroup]:
        texts, seeds = [group.prompt.text for group in call], [group.seeds for group in call]
        urgency = (call[0].iteration, call[0].index)
        report, sampled = await self.rollouts.sample_groups(urgency, texts, seeds, weights, call[0].plan)
        share, now = report.of_each(len(call)), time.perf_counter()
        return [
            SampledGroup(share, images, conditioning, trajectories, now)
            for images, conditioning, *trajectories in sampled
        ]

    async def _make(
        self, seat: Seat, weights: Callable[[], WeightsHandle], sampling: Awaitable[list[SampledGroup]]
    ) -> ScoredGroup:
        """Scores a group and keeps its best and worst.

        A group whose images are lost is sampled again, with all of its call: other forwards would round otherwise. One
        without spread is replaced by another prompt's, which is sampled alone.
        """
        while True:
            sampled = (await sampling)[seat.number]
            try:
                scores = await self._score(seat.group, sampled.images)
            except ObjectLostError:
                self.lost += 1
                sampling = self._sample(seat.call, weights)
                continue
            score_seconds = time.perf_counter() - sampled.at
            advantages = advantages_of(scores.mu, self.settings)
            if advantages.skipped and seat.group.resamples < self.settings.algorithm.max_resamples:
                self.replaced += 1
                seat = Seat((self._replacement(seat.group),), 0)
                sampling = self._sample(seat.call, weights)
                continue
            kept = tuple(sampled.trajectories[i] for i in advantages.kept)
            return ScoredGroup(
                seat, scores.mu, advantages, sampled.conditioning, kept, sampled.report, sampled.at, score_seconds
            )

    async def _score(self, group: Group, images: ray.ObjectRef) -> Scores:
        self.scoring.add(1)
        try:
            return await self.rewards.score(images, (group.prompt.text,) * len(group.seeds))
        finally:
            self.scoring.add(-1)

    def _replacement(self, group: Group) -> Group:
        """Another prompt and other seeds, drawn from the group's own: the same whoever asks, and when."""
        rng = np.random.default_rng(group.seeds)
        prompt = self.prompts[int(rng.integers(len(self.prompts)))]
        seeds = tuple(rng.integers(2**62, size=len(group.seeds)).tolist())
        return replace(group, prompt=prompt, seeds=seeds, redraws=group.resamples + 1)

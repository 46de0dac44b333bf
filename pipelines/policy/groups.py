"""One group's way: sample -> score -> filter, as often as it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import ray
from ray.exceptions import ObjectLostError

from actors.flux.plan import SamplingPlan
from actors.grpo.advantages import Advantages, group_advantages
from actors.records import Prompt, Scores
from actors.rollout import SampleReport, WeightsHandle
from conf.policy import PolicySettings
from pipelines.policy.capacity import Replicas
from pipelines.policy.clock import Level
from pipelines.policy.rollouts import RolloutPool


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

    step: int
    index: int  # of the prompt within the step
    prompt: Prompt
    seeds: tuple[int, ...]
    plan: SamplingPlan
    redraws: int = 0  # times it was replaced for want of spread


@dataclass(frozen=True)
class ScoredGroup:
    """What the learner gets of a group: references to what it kept, and why."""

    group: Group
    scores: np.ndarray  # [G]
    advantages: Advantages
    conditioning: ray.ObjectRef
    trajectories: tuple[ray.ObjectRef, ...]  # of `advantages.kept`; the others are freed
    report: SampleReport
    sampled_at: float  # time.perf_counter() when the images were there
    score_seconds: float  # from then to their scores


def advantages_of(scores: np.ndarray, settings: PolicySettings, divisor: float | None = None) -> Advantages:
    """`group_advantages` as the run's settings have it."""
    return group_advantages(scores, settings.top_k, settings.stats_over, settings.advantage_clip, divisor)


class GroupMaker:
    """Draws groups through a rollout pool and a reward pool."""

    def __init__(
        self, rollouts: RolloutPool, rewards: RewardPool, prompts: Sequence[Prompt], settings: PolicySettings
    ) -> None:
        """`prompts` are those that replace the prompts of groups without spread."""
        self.rollouts, self.rewards, self.prompts, self.settings = rollouts, rewards, prompts, settings
        self.scoring = Level()  # groups whose scores are awaited
        self.lost = 0  # groups sampled again because a node took their images or trajectories with it
        self.replaced = 0  # groups without spread

    async def make(self, group: Group, weights: Callable[[], WeightsHandle]) -> ScoredGroup:
        """Samples and scores a group and keeps its best and worst.

        A group whose images are lost is sampled again; one without spread is replaced by another prompt's.
        """
        while True:
            report, references = await self.rollouts.sample_group(group.prompt.text, group.seeds, weights, group.plan)
            images, conditioning, *trajectories = references
            sampled_at = time.perf_counter()
            self.scoring.add(1)
            try:
                scores = await self.rewards.score(images, (group.prompt.text,) * len(group.seeds))
            except ObjectLostError:
                self.lost += 1
                continue
            finally:
                self.scoring.add(-1)
            score_seconds = time.perf_counter() - sampled_at
            advantages = advantages_of(scores.mu, self.settings)
            if advantages.skipped and group.redraws < self.settings.redraws:
                self.replaced += 1
                group = self._replacement(group)
                continue
            kept = tuple(trajectories[i] for i in advantages.kept)
            return ScoredGroup(group, scores.mu, advantages, conditioning, kept, report, sampled_at, score_seconds)

    def _replacement(self, group: Group) -> Group:
        """Another prompt and other seeds, drawn from the group's own: the same whoever asks, and when."""
        rng = np.random.default_rng(group.seeds)
        prompt = self.prompts[int(rng.integers(len(self.prompts)))]
        seeds = tuple(rng.integers(2**62, size=len(group.seeds)).tolist())
        return replace(group, prompt=prompt, seeds=seeds, redraws=group.redraws + 1)

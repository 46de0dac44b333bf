"""The rewards of a run as one: those that train are combined, and those without a weight watch held-out images."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import ray
from ray.exceptions import ObjectLostError, RayTaskError

from actors.rewards.combine import CombineRule, combine_group, weighted_sum
from actors.rewards.errors import RewardError
from actors.types import Scores
from actors.workers.faults import DeviceFaultError
from actors.workers.reward import RewardPool
from conf.rewards import RewardTerm
from pipelines.common.resources import ResourceRequest
from pipelines.policy.call_limit import CallLimits
from pipelines.policy.resources import Replicas

MAX_REASON = 300
"""Characters of the reason for which a reward has no scores, in messages."""


@dataclass(frozen=True)
class RunningReward:
    """One reward of a run."""

    name: str
    term: RewardTerm
    pool: RewardPool
    request: ResourceRequest
    """The request of its replicas."""


class RewardMix:
    """The rewards of a run: those with a weight or a gate make the training reward, all of them score held-out images.

    If a reward that trains gives NaN for an image, so does the training reward. A watched reward never ends a run.
    """

    def __init__(
        self,
        rewards: Sequence[RunningReward],
        rule: CombineRule = "sum",
        absent: Mapping[str, str] | None = None,
        limits: CallLimits | None = None,
    ) -> None:
        """`rule`: how the scores of a group are combined, see `actors.rewards.combine`.

        `absent`: watched rewards that could not be started, and why. `limits`: how long a watched reward may take.
        """
        self._trained = tuple(reward for reward in rewards if reward.term.trains)
        self._watched = tuple(reward for reward in rewards if not reward.term.trains)
        self._absent, self._limits = dict(absent or {}), limits or CallLimits()
        self._reported: dict[str, str] = dict(self._absent)
        self._rule: CombineRule = rule
        self._weights = {reward.name: reward.term.weight for reward in self._trained}
        bounds = {reward.name: reward.term.at_least for reward in self._trained}
        self._gates = {name: bound for name, bound in bounds.items() if bound is not None}

    @property
    def retries(self) -> int:
        """Scoring calls that were repeated, over all pools."""
        return sum(reward.pool.retries for reward in (*self._trained, *self._watched))

    async def score(self, images: ray.ObjectRef[np.ndarray], prompts: Sequence[str]) -> Scores:
        """The training reward of the images of one group, and its parts. Watched rewards are not asked."""
        parts = await self._parts(images, prompts)
        return replace(combine_group(parts, self._weights, self._gates, self._rule), parts=parts)

    async def score_held_out(self, images: ray.ObjectRef[np.ndarray], prompts: Sequence[str]) -> Scores:
        """The weighted sum for images that are no group, with the scores of the rewards that train as its parts.

        z-scores and gates compare the images of a group, so they are not applied.
        """
        parts = await self._parts(images, prompts)
        return replace(weighted_sum(parts, self._weights), parts=parts)

    async def watch(self, images: ray.ObjectRef[np.ndarray], prompts: Sequence[str]) -> dict[str, Scores]:
        """The scores of each watched reward, by name. One that fails, or does not answer in time, gives NaN.

        Raises ObjectLostError if the images are lost, and nothing that a reward is the reason for.
        """
        found = await asyncio.gather(*(self._watch(reward, images, prompts) for reward in self._watched))
        scores = {reward.name: each for reward, each in zip(self._watched, found, strict=True)}
        return scores | {name: _nothing(prompts) for name in self._absent}

    async def parts(self, images: ray.ObjectRef[np.ndarray], prompts: Sequence[str]) -> dict[str, Scores]:
        """The scores of every reward, by name, for images that are no group. Watched ones as `watch` gives them."""
        trained, watched = await asyncio.gather(self._parts(images, prompts), self.watch(images, prompts))
        return {**trained, **watched}

    async def _parts(self, images: ray.ObjectRef[np.ndarray], prompts: Sequence[str]) -> dict[str, Scores]:
        scores = await asyncio.gather(*(_score(reward, images, prompts) for reward in self._trained))
        return {reward.name: each for reward, each in zip(self._trained, scores, strict=True)}

    async def _watch(self, reward: RunningReward, images: ray.ObjectRef[np.ndarray], prompts: Sequence[str]) -> Scores:
        try:
            async with self._limits.limit("watch"):
                return await reward.pool.score(images, prompts)
        except ObjectLostError:  # no fault of the reward: the caller makes the images again
            raise
        except Exception as error:  # the boundary of a reward that must not end the run, whatever its code raises
            self._report(reward.name, reason_of(error))
            return _nothing(prompts)

    def _report(self, name: str, reason: str) -> None:
        """Warns, once for equal reasons in a row. The images without a score are counted in the evaluation."""
        if self._reported.get(name) != reason:
            self._reported[name] = reason
            logging.getLogger(__name__).warning("the watched reward %s has no scores: %s", name, reason)

    async def replicas(self) -> list[Replicas]:
        """The replicas of each reward."""
        rewards = (*self._trained, *self._watched)
        counts = await asyncio.gather(*(asyncio.to_thread(reward.pool.replica_counts) for reward in rewards))
        return [Replicas(reward.request, *count) for reward, count in zip(rewards, counts, strict=True)]

    def stop(self) -> None:
        """Removes all pools from the cluster."""
        for reward in (*self._trained, *self._watched):
            reward.pool.stop()


async def _score(reward: RunningReward, images: ray.ObjectRef[np.ndarray], prompts: Sequence[str]) -> Scores:
    """See RewardPool.score. Raises RewardError, in place of a traceback, for what the code of the reward raises.

    Lost replicas, images and devices are no mistake of the user: the same command may succeed later.
    """
    try:
        return await reward.pool.score(images, prompts)
    except (ObjectLostError, DeviceFaultError):
        raise
    except RayTaskError as error:
        raise RewardError(
            f"rewards.{reward.name} ended with {reason_of(error)}: correct it, and start the command again. The log of "
            "its replica has the traceback"
        ) from error


def reason_of(error: Exception) -> str:
    """The kind and the message of an error in a replica, in one line."""
    cause = getattr(error, "cause", None) or error
    message = " ".join(str(cause).split())[:MAX_REASON]
    return message if isinstance(cause, RewardError) else f"{type(cause).__name__}: {message}"


def _nothing(prompts: Sequence[str]) -> Scores:
    return Scores.deterministic([float("nan")] * len(prompts))

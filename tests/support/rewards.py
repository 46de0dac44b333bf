"""Rewards that need no training, with the interface `Rewards` of pipelines.policy.collector."""

from __future__ import annotations

from typing import Any

import numpy as np
import ray

from actors.types import Scores
from pipelines.common.resources import ResourceRequest
from pipelines.policy.resources import Replicas
from tests.support.light_actors import Redness


class RednessPool:
    """A pool of one Redness actor."""

    def __init__(self) -> None:
        self.retries = 0
        self.actor: Any = ray.remote(Redness).options(num_cpus=0.1).remote()

    async def score(self, images: ray.ObjectRef[np.ndarray], prompts: tuple[str, ...]) -> Scores:
        """Scores by reference on the actor."""
        return await self.actor.score.remote(images, prompts)

    score_held_out = score

    async def watch(self, images: ray.ObjectRef[np.ndarray], prompts: tuple[str, ...]) -> dict[str, Scores]:
        """No reward is watched."""
        return {}

    async def replicas(self) -> list[Replicas]:
        """One replica, always."""
        return [Replicas(ResourceRequest("redness", 1, 0.1, 0.0, "", ""), running=1)]

    def stop(self) -> None:
        """Kills the actor."""
        ray.kill(self.actor)


class ConstantPool:
    """Gives every image the same score, without Ray."""

    def __init__(self) -> None:
        self.retries, self.calls = 0, 0
        self.prompts: set[str] = set()

    async def score(self, images: ray.ObjectRef[np.ndarray], prompts: tuple[str, ...]) -> Scores:
        """Counts the call and remembers the prompt."""
        self.calls += 1
        self.prompts.add(prompts[0])
        return Scores(np.ones(len(prompts), np.float32), np.ones(len(prompts), np.float32))

    score_held_out = score

    async def watch(self, images: ray.ObjectRef[np.ndarray], prompts: tuple[str, ...]) -> dict[str, Scores]:
        """No reward is watched."""
        return {}

    async def replicas(self) -> list[Replicas]:
        """None."""
        return []

"""A reward that needs no training: how red an image is. A pool of one actor with the interface of the real pool."""

from __future__ import annotations

import numpy as np
import ray

from actors.types import Scores
from pipelines.policy.resources import Replicas, ResourceRequest


class Redness:
    """Scores images by their mean red minus their mean blue, in grey levels."""

    def score(self, images: np.ndarray, texts: tuple[str, ...]) -> Scores:
        """images uint8 [B, H, W, 3], one text each."""
        assert len(images) == len(texts)
        pixels = images.astype(np.float32)
        return Scores(pixels[..., 0].mean((1, 2)) - pixels[..., 2].mean((1, 2)), np.ones(len(images), np.float32))


class RednessPool:
    """Scores by reference on one actor."""

    def __init__(self) -> None:
        self.retries = 0
        self.actor = ray.remote(Redness).options(num_cpus=0.1).remote()

    async def score(self, images: ray.ObjectRef, texts: tuple[str, ...]) -> Scores:
        """See RewardPool in pipelines.policy.collector."""
        return await self.actor.score.remote(images, texts)

    async def replicas(self) -> list[Replicas]:
        """See RewardPool in pipelines.policy.collector."""
        return [Replicas(ResourceRequest("redness", 1, 0.1, 0.0, "", ""), running=1)]

    def stop(self) -> None:
        """Kills the actor."""
        ray.kill(self.actor)


class IndifferentPool:
    """Gives every picture the same score."""

    def __init__(self) -> None:
        self.retries, self.calls = 0, 0
        self.texts: set[str] = set()

    async def score(self, images: ray.ObjectRef, texts: tuple[str, ...]) -> Scores:
        """See RewardPool in pipelines.policy.collector."""
        self.calls += 1
        self.texts.add(texts[0])
        return Scores(np.ones(len(texts), np.float32), np.ones(len(texts), np.float32))

    async def replicas(self) -> list[Replicas]:
        """See RewardPool in pipelines.policy.collector."""
        return []

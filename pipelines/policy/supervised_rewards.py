"""Rewards whose calls end: a call that does not return is abandoned, and one whose device failed is repeated."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import ray
from ray.exceptions import RayError

from actors.types import Scores
from actors.workers.faults import DeviceFaultError
from pipelines.policy.call_limit import CallAbandonedError
from pipelines.policy.collector import Rewards
from pipelines.policy.resources import Replicas
from pipelines.policy.supervision import Supervision

Score = Callable[[ray.ObjectRef[np.ndarray], tuple[str, ...]], Awaitable[Scores]]

MAX_ABANDONED = 3
"""Times that one call may be abandoned while all rewards have replicas, before the run ends."""


class SupervisedRewards:
    """The rewards of a run, for its collector and its evaluation. Scoring has no side effects, so it may be repeated.

    Serve itself replaces a replica that ended, or that does not pass its health check because its device hangs.
    """

    def __init__(self, rewards: Rewards, supervision: Supervision) -> None:
        self._rewards, self._supervision = rewards, supervision
        self._repeated = 0

    @property
    def retries(self) -> int:
        """Scoring calls that were repeated."""
        return self._rewards.retries + self._repeated

    async def score(self, images: ray.ObjectRef[np.ndarray], prompts: tuple[str, ...]) -> Scores:
        """See Rewards. Raises UserError if the replicas are out of memory again and again."""
        return await self._supervised(self._rewards.score, images, prompts)

    async def score_held_out(self, images: ray.ObjectRef[np.ndarray], prompts: tuple[str, ...]) -> Scores:
        """See Rewards. Raises what `score` raises."""
        return await self._supervised(self._rewards.score_held_out, images, prompts)

    async def watch(self, images: ray.ObjectRef[np.ndarray], prompts: tuple[str, ...]) -> dict[str, Scores]:
        """See Rewards. These calls have limits of their own, since no watched reward may end the run."""
        return await self._rewards.watch(images, prompts)

    async def _supervised(self, score: Score, images: ray.ObjectRef[np.ndarray], prompts: tuple[str, ...]) -> Scores:
        abandoned = 0
        while True:
            try:
                async with self._supervision.limits.limit("score"):
                    scores = await score(images, prompts)
            except DeviceFaultError as error:
                self._supervision.faults.record(error.fault)
            except CallAbandonedError as error:
                abandoned += await self._is_running()
                if abandoned > MAX_ABANDONED:
                    raise
                logging.getLogger(__name__).warning("a scoring call is repeated: %s", error)
            else:
                self._supervision.faults.progress("reward", "detector")
                return scores
            self._repeated += 1

    async def _is_running(self) -> bool:
        """Whether every reward has a replica. Without one, calls wait, which is no fault of theirs."""
        try:
            return all(each.running for each in await self._rewards.replicas())
        except RayError:  # Serve's controller is away
            return False

    async def replicas(self) -> Sequence[Replicas]:
        """See Rewards."""
        return await self._rewards.replicas()

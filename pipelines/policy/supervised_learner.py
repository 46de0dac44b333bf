"""A learner whose calls end: ranks that do not return in time are lost."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from actors.grpo.metrics import OptimizerStepMetrics
from actors.workers.learner_group import LearnerGroup, LearnerLostError
from actors.workers.sampling_calls import WeightsHandle
from pipelines.policy.call_limit import CallAbandonedError, CallKind
from pipelines.policy.supervision import Supervision


class SupervisedLearner(LearnerGroup):
    """All learner ranks. Its methods raise LearnerLostError if a rank died or does not return."""

    def __init__(self, group: LearnerGroup, supervision: Supervision) -> None:
        super().__init__(group.ranks, group.stop)
        self._supervision = supervision

    async def start(self) -> int:
        """See LearnerGroup."""
        async with self._limited("start"):
            return await super().start()

    async def load(self, *args: Any, **kwargs: Any) -> int:
        """See LearnerGroup."""
        async with self._limited("load"):
            return await super().load(*args, **kwargs)

    async def accumulate(self, *args: Any, **kwargs: Any) -> None:
        """See LearnerGroup."""
        async with self._limited("accumulate"):
            await super().accumulate(*args, **kwargs)

    async def optimizer_step(self, *args: Any, **kwargs: Any) -> OptimizerStepMetrics:
        """See LearnerGroup."""
        async with self._limited("optimizer step"):
            return await super().optimizer_step(*args, **kwargs)

    async def publish(self, *args: Any, **kwargs: Any) -> WeightsHandle:
        """See LearnerGroup."""
        async with self._limited("publish"):
            return await super().publish(*args, **kwargs)

    async def end_iteration(self) -> Any:
        """See LearnerGroup."""
        async with self._limited("publish"):
            result = await super().end_iteration()
        self._supervision.faults.progress("learner", "worker")
        return result

    @asynccontextmanager
    async def _limited(self, kind: CallKind) -> AsyncGenerator[None]:
        try:
            async with self._supervision.limits.limit(kind):
                yield
        except CallAbandonedError as error:
            raise LearnerLostError(str(error)) from error

"""The driver's side of the learner: all ranks start, step and publish together."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError
from ray.util import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.grpo.advantages import Advantages
from actors.grpo.metrics import OptimizerStepMetrics, weighted_mean
from actors.grpo.shares import GroupPart
from actors.types import Conditioning, Trajectory
from actors.worker_setup import actor_options, node_selector
from actors.workers.faults import DeviceFault, root_fault
from actors.workers.learner import LearnerActor, LearnerJob, rank_file
from actors.workers.policy_worker import policy_worker_actor
from actors.workers.sampling_calls import WeightsHandle


class LearnerLostError(RuntimeError):
    """A rank died. The group must be stopped and started again from a checkpoint."""

    def __init__(self, message: str, fault: DeviceFault | None = None) -> None:
        """`fault`: of the device that is the reason, if one is."""
        super().__init__(message)
        self.fault = fault


class LearnerGroup:
    """All learner ranks. Its methods raise LearnerLostError if a rank died. Await `placed`, then `start`."""

    def __init__(self, ranks: Sequence[Any], release: Callable[[], None]) -> None:
        """`ranks` are the handles of the actors, in order. `release` kills them and returns their resources."""
        self.ranks = list(ranks)
        self._release = release

    async def placed(self) -> None:
        """Returns once Ray has started the processes of all ranks."""
        await self._results([rank.__ray_ready__.remote() for rank in self.ranks])

    async def start(self) -> int:
        """Builds all ranks. Returns the policy version, 0."""
        (address,) = await self._results([self.ranks[0].open_store.remote()])
        return (await self._results([rank.start.remote(address) for rank in self.ranks]))[0]

    async def load(self, folder: str, digests: Mapping[str, str]) -> int:
        """Restores all ranks from a checkpoint folder. Returns its policy version.

        Raises DamagedFileError or OSError if the file of a rank is not what was written.
        """
        return (await self._results([rank.load.remote(folder, digests) for rank in self.ranks]))[0]

    async def load_note(self) -> str:
        """What the last `load` did to the optimizer's state, if it is not the very state that was saved; else ""."""
        return (await self._results([self.ranks[0].load_note.remote()]))[0]

    async def accumulate(
        self,
        rank: int,
        version: int,
        part: GroupPart,
        advantages: Advantages,
        conditioning: ray.ObjectRef[Conditioning],
        trajectories: Sequence[ray.ObjectRef[Trajectory]],
    ) -> None:
        """Has one rank add a part of the gradient of one group to its accumulated gradient.

        The trajectories travel from actor to actor. Raises ObjectLostError if one is lost, and ValueError if the rank
        is not at policy version `version`.
        """
        await self._results(
            [self.ranks[rank].accumulate.remote(version, part, advantages, conditioning, *trajectories)]
        )

    async def optimizer_step(self, grad_divisor: float) -> OptimizerStepMetrics:
        """Makes one optimizer step on all ranks, with their gradients divided by `grad_divisor`. Merges the metrics."""
        return merge_metrics(await self._results([rank.optimizer_step.remote(grad_divisor) for rank in self.ranks]))

    async def end_iteration(self) -> int:
        """Ends the iteration on all ranks. Returns the new policy version."""
        return (await self._results([rank.end_iteration.remote() for rank in self.ranks]))[0]

    async def publish(self, averaged: bool = False) -> WeightsHandle:
        """Puts the weights, or their moving average, into the object store. All ranks hold the same; rank 0 sends."""
        version, reference = self.ranks[0].publish.options(num_returns=2).remote(averaged)
        (number,) = await self._results([version])
        return WeightsHandle(number, averaged, reference)

    def states(self) -> dict[str, ray.ObjectRef[np.ndarray]]:
        """Returns file name -> reference of each rank's state as it is now. Later calls do not change it."""
        return {rank_file(number): rank.state.remote() for number, rank in enumerate(self.ranks)}

    async def _results(self, references: Sequence[ray.ObjectRef[Any]]) -> list[Any]:
        """Awaits calls to ranks. If one rank dies, the others fail in their collectives: both are LearnerLostError."""
        calls = [asyncio.ensure_future(reference) for reference in references]
        try:
            return await asyncio.gather(*calls)
        except (RayActorError, RuntimeError) as error:
            if _init_failed(error):
                raise
            fault = await root_fault(calls)
            if fault is None and not isinstance(error, RayActorError) and not await self._a_rank_is_dead():
                raise
            raise LearnerLostError(str(fault or error), fault) from error

    async def _a_rank_is_dead(self) -> bool:
        pings = [asyncio.wait_for(rank.__ray_ready__.remote(), 10) for rank in self.ranks]
        return any(isinstance(pong, RayActorError) for pong in await asyncio.gather(*pings, return_exceptions=True))

    def stop(self) -> None:
        """Kills all ranks and returns their resources."""
        self._release()


def start_learner(job: LearnerJob, avoided: frozenset[str] = frozenset()) -> LearnerGroup:
    """Asks Ray for all ranks or none, placed as the settings say but on no `avoided` node, and returns at once.

    With `policy.placement=colocated` the ranks are PolicyWorkers, which sample too.
    """
    actor_class: Any = LearnerActor
    if job.settings.placement == "colocated":
        actor_class = policy_worker_actor(job.settings.learner.gpus)
    settings = job.settings.learner
    options = actor_options(settings.threads, settings.cpus, settings.gpus)
    bundle = {"CPU": settings.cpus} | ({"GPU": settings.gpus} if settings.gpus else {})
    selector = node_selector(settings.node_group, avoided)
    placement = placement_group(
        [bundle] * settings.ranks,
        strategy=settings.placement.upper(),
        bundle_label_selector=[selector] * settings.ranks,
    )
    ranks: list[Any] = [
        actor_class.options(**options, scheduling_strategy=PlacementGroupSchedulingStrategy(placement, rank)).remote(
            job, rank
        )
        for rank in range(settings.ranks)
    ]

    def release() -> None:
        for rank in ranks:
            ray.kill(rank)
        remove_placement_group(placement)

    return LearnerGroup(ranks, release)


def _init_failed(error: Exception) -> bool:
    return isinstance(error, RayActorError) and error.actor_init_failed


def merge_metrics(parts: Sequence[OptimizerStepMetrics]) -> OptimizerStepMetrics:
    """Merges the metrics of all ranks: means weighted by rows, the largest drift, sums of rows and samples."""
    drifts = [part.ratio_drift for part in parts if not math.isnan(part.ratio_drift)]
    rows, regularizer_rows = [part.rows for part in parts], [part.regularizer_rows for part in parts]
    return OptimizerStepMetrics(
        loss=weighted_mean([part.loss for part in parts], rows),
        kl=weighted_mean([part.kl for part in parts], rows),
        base_distance=weighted_mean([part.base_distance for part in parts], regularizer_rows),
        ratio_mean=weighted_mean([part.ratio_mean for part in parts], rows),
        ratio_drift=max(drifts, default=math.nan),
        clip_fraction=weighted_mean([part.clip_fraction for part in parts], rows),
        grad_norm=parts[0].grad_norm,
        lr=parts[0].lr,
        rows=sum(rows),
        samples=sum(part.samples for part in parts),
        regularizer_rows=sum(regularizer_rows),
        applied=parts[0].applied,
    )

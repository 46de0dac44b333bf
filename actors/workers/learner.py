"""The learner's ranks as a group of actors: each replays its share of the groups, all step together."""

from __future__ import annotations

import asyncio
import io
import math
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError
from ray.util import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.files import join, read_checked
from actors.grpo.advantages import Advantages
from actors.grpo.learner import GrpoLearner, OptimizerStepMetrics
from actors.optim.fsdp import shard_frozen
from actors.optim.torch_engine import Engine, OptimizerSettings, TorchEngine
from actors.policy.base import Policy
from actors.policy.registry import load_policy
from actors.types import Conditioning, PolicyWeights, Trajectory
from actors.worker_setup import actor_options, init_worker, node_selector
from actors.workers.rollout import WeightsHandle
from conf.flux import FluxSettings
from conf.policy import PolicySettings


@dataclass(frozen=True)
class LearnerJob:
    """What every rank is made from."""

    model: str
    flux: FluxSettings
    settings: PolicySettings


class LearnerRank:
    """One rank around a GrpoLearner."""

    def __init__(self, job: LearnerJob, rank: int) -> None:
        self.job, self.rank = job, rank
        self.device = init_worker(job.settings.learner.threads, job.settings.learner.gpus)

    def __repr__(self) -> str:
        """How Ray's dashboard and logs name it."""
        return f"learner rank {self.rank} of {self.job.settings.learner.ranks}"

    def address(self) -> str:
        """host:port at which rank 0 lets the others join."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"

    def start(self, address: str) -> int:
        """Builds policy and optimizer, joined with the other ranks where there are any. Returns the version, 0."""
        settings = self.job.settings
        # a base that is to be sharded comes to the GPU a block at a time
        device = torch.device("cpu") if settings.learner.zero_stage == 3 else self.device
        policy = load_policy(self.job.model, self.job.flux, device, transformer_only=True, seed=settings.seed)
        self.learner = GrpoLearner(policy, self._engine(policy, address), settings)
        return self.learner.version

    def _engine(self, policy: Policy, address: str) -> Engine:
        settings = self.job.settings
        parameters = list(policy.trainable().values())
        constants = OptimizerSettings(
            settings.optimizer.betas, settings.optimizer.weight_decay, settings.optimizer.max_grad_norm
        )
        if settings.learner.engine == "torch":
            return TorchEngine(parameters, constants)
        torch.distributed.init_process_group(
            "nccl" if self.device.type == "cuda" else "gloo",
            init_method=f"tcp://{address}",
            rank=self.rank,
            world_size=settings.learner.ranks,
        )
        if settings.learner.zero_stage == 3:
            shard_frozen(policy.transformer, parameters, self.device)
        from actors.optim.deepspeed_engine import DeepSpeedEngine  # slow to import; one rank does without it

        return DeepSpeedEngine(parameters, constants, min(settings.learner.zero_stage, 2))

    def accumulate(
        self, version: int, advantages: Advantages, conditioning: Conditioning, *trajectories: Trajectory
    ) -> None:
        """Adds one group's gradient to that of policy version `version`; see GrpoLearner.accumulate.

        Raises ValueError if the rank is at another version: the group belongs to an iteration that is over or lost.
        """
        if version != self.learner.version:
            raise ValueError(
                f"a group for policy version {version} reached a learner at version {self.learner.version}"
            )
        self.learner.accumulate(advantages, conditioning, trajectories)

    def step(self, divisor: float) -> OptimizerStepMetrics:
        """One optimizer update, together with the other ranks; see GrpoLearner.step."""
        return self.learner.step(divisor)

    def advance(self) -> int:
        """Ends the iteration and returns the new version."""
        return self.learner.advance()

    def publish(self, averaged: bool) -> tuple[int, PolicyWeights]:
        """The present version, and its weights or their moving average. Call it with num_returns = 2."""
        return self.learner.version, self.learner.ema_weights() if averaged else self.learner.weights()

    def state(self) -> bytes:
        """This rank's state as a file's content."""
        buffer = io.BytesIO()
        torch.save(self.learner.state_dict(), buffer)
        return buffer.getvalue()

    def load(self, folder: str, digests: Mapping[str, str]) -> int:
        """Restores this rank's state, if its file has the digest that was noted, and returns the version."""
        name = rank_file(self.rank)
        content = io.BytesIO(read_checked(join(folder, name), digests[name]))
        self.learner.load_state_dict(torch.load(content, map_location=self.device, weights_only=True))
        return self.learner.version


LearnerActor = ray.remote(LearnerRank)


def rank_file(rank: int) -> str:
    """The name of a rank's state in a checkpoint's folder."""
    return f"rank-{rank}.pt"


class LearnerLostError(RuntimeError):
    """A rank died; the group must be stopped and started again from a checkpoint."""


class LearnerGroup:
    """The driver's side of all ranks. Its methods raise LearnerLostError if a rank died."""

    def __init__(self, job: LearnerJob) -> None:
        """Asks Ray for the ranks, all or none, placed as the settings say; await `placed`, then `start`."""
        settings = job.settings
        options = actor_options(settings.learner.threads, settings.learner.cpus, settings.learner.gpus)
        bundle = {"CPU": settings.learner.cpus} | ({"GPU": settings.learner.gpus} if settings.learner.gpus else {})
        selector = node_selector(settings.learner.node_group)
        self._placement = placement_group(
            [bundle] * settings.learner.ranks,
            strategy=settings.learner.placement.upper(),
            bundle_label_selector=[selector] * settings.learner_ranks if selector else None,  # type: ignore[arg-type]
        )
        self.ranks: list[Any] = [
            LearnerActor.options(
                **options, scheduling_strategy=PlacementGroupSchedulingStrategy(self._placement, rank)
            ).remote(job, rank)
            for rank in range(settings.learner.ranks)
        ]

    async def placed(self) -> None:
        """Returns once all ranks have their places."""
        await self._results([rank.address.remote() for rank in self.ranks])

    async def start(self) -> int:
        """Builds all ranks. Returns the policy version, 0."""
        (address,) = await self._results([self.ranks[0].address.remote()])
        return (await self._results([rank.start.remote(address) for rank in self.ranks]))[0]

    async def load(self, folder: str, digests: Mapping[str, str]) -> int:
        """Restores all ranks from a checkpoint's folder. Returns its version.

        Raises DamagedFileError or OSError if a rank's file is not what was written; then load another one.
        """
        return (await self._results([rank.load.remote(folder, digests) for rank in self.ranks]))[0]

    async def accumulate(
        self, rank: int, version: int, advantages: Advantages, conditioning: ray.ObjectRef,
        trajectories: Sequence[ray.ObjectRef],
    ) -> None:  # fmt: skip
        """Has a rank at policy version `version` learn one group.

        The trajectories travel from actor to actor. Raises ObjectLostError if one is lost, ValueError if the rank is
        at another version.
        """
        await self._results([self.ranks[rank].accumulate.remote(version, advantages, conditioning, *trajectories)])

    async def step(self, divisor: float) -> OptimizerStepMetrics:
        """Steps all ranks, their gradients divided by `divisor`, and merges what they measured."""
        return merge_metrics(await self._results([rank.step.remote(divisor) for rank in self.ranks]))

    async def advance(self) -> WeightsHandle:
        """Ends the iteration on all ranks and publishes the next version."""
        await self._results([rank.advance.remote() for rank in self.ranks])
        return await self.publish()

    async def publish(self, averaged: bool = False) -> WeightsHandle:
        """The present version, or its moving average: a handle; all ranks hold the same, so rank 0 gives it."""
        version, reference = self.ranks[0].publish.options(num_returns=2).remote(averaged)
        (number,) = await self._results([version])
        return WeightsHandle(number, averaged, reference)

    def states(self) -> dict[str, ray.ObjectRef]:
        """Every rank's state as it is now, file name -> reference: later calls to the ranks cannot change it."""
        return {rank_file(number): rank.state.remote() for number, rank in enumerate(self.ranks)}

    async def _results(self, references: Sequence[ray.ObjectRef]) -> list[Any]:
        """Awaits calls to ranks. If one dies, the others fail in their collectives: both mean LearnerLostError."""
        try:
            return await asyncio.gather(*references)
        except (RayActorError, RuntimeError) as error:
            if _init_failed(error) or not (isinstance(error, RayActorError) or await self._a_rank_is_dead()):
                raise
            raise LearnerLostError(str(error)) from error

    async def _a_rank_is_dead(self) -> bool:
        pings = [asyncio.wait_for(asyncio.wrap_future(rank.address.remote().future()), 10) for rank in self.ranks]
        return any(isinstance(pong, RayActorError) for pong in await asyncio.gather(*pings, return_exceptions=True))

    def stop(self) -> None:
        """Kills all ranks and gives their places back."""
        for rank in self.ranks:
            ray.kill(rank)
        remove_placement_group(self._placement)


def _init_failed(error: Exception) -> bool:
    return isinstance(error, RayActorError) and error.actor_init_failed


def merge_metrics(parts: Sequence[OptimizerStepMetrics]) -> OptimizerStepMetrics:
    """Means over ranks weighted by their rows; the greatest drift; sums of rows and samples."""
    rows = sum(part.rows for part in parts)

    def mean(values: Sequence[float]) -> float:
        return sum(value * part.rows for value, part in zip(values, parts, strict=True)) / max(rows, 1)

    drifts = [part.ratio_drift for part in parts if not math.isnan(part.ratio_drift)]
    return OptimizerStepMetrics(
        loss=mean([part.loss for part in parts]),
        kl=mean([part.kl for part in parts]),
        base_distance=mean([part.base_distance for part in parts]),
        ratio_mean=mean([part.ratio_mean for part in parts]),
        ratio_drift=max(drifts, default=math.nan),
        clip_fraction=mean([part.clip_fraction for part in parts]),
        grad_norm=parts[0].grad_norm,
        lr=parts[0].lr,
        rows=rows,
        samples=sum(part.samples for part in parts),
        applied=parts[0].applied,
    )

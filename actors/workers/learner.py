"""One learner rank: an actor around a GrpoLearner. `learner_group` is the driver's side of all ranks."""

from __future__ import annotations

import io
import socket
from collections.abc import Mapping
from dataclasses import dataclass

import ray
import torch

from actors.files import join, read_checked
from actors.grpo.advantages import Advantages
from actors.grpo.learner import GrpoLearner, OptimizerStepMetrics
from actors.optim.fsdp import shard_frozen
from actors.optim.torch_engine import Engine, OptimizerSettings, TorchEngine
from actors.policy.base import Policy
from actors.policy.registry import load_policy
from actors.types import Conditioning, PolicyWeights, Trajectory
from actors.worker_setup import init_worker
from conf.flux import FluxSettings
from conf.policy import PolicySettings


@dataclass(frozen=True)
class LearnerJob:
    """What every rank is built from."""

    model: str
    flux: FluxSettings
    settings: PolicySettings


class LearnerRank:
    """One rank around a GrpoLearner."""

    def __init__(self, job: LearnerJob, rank: int) -> None:
        self.job, self.rank = job, rank
        self.device = init_worker(job.settings.learner.threads, job.settings.learner.gpus)

    def __repr__(self) -> str:
        """The name in Ray's dashboard and logs."""
        return f"learner rank {self.rank} of {self.job.settings.learner.ranks}"

    def address(self) -> str:
        """Returns host:port, at which rank 0 lets the other ranks join the process group."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"

    def start(self, address: str) -> int:
        """Builds policy and optimizer and joins the other ranks, if there are any. Returns the policy version, 0."""
        settings = self.job.settings
        # A base that will be sharded is moved to the GPU one block at a time.
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
        from actors.optim.deepspeed_engine import DeepSpeedEngine  # slow to import, and a single rank does not need it

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

    def optimizer_step(self, grad_divisor: float) -> OptimizerStepMetrics:
        """Makes one optimizer step together with the other ranks; see GrpoLearner.optimizer_step."""
        return self.learner.optimizer_step(grad_divisor)

    def end_iteration(self) -> int:
        """Ends the iteration and returns the new policy version."""
        return self.learner.end_iteration()

    def publish(self, averaged: bool) -> tuple[int, PolicyWeights]:
        """Returns the policy version, and its weights or their moving average. Call it with num_returns = 2."""
        return self.learner.version, self.learner.ema_weights() if averaged else self.learner.weights()

    def state(self) -> bytes:
        """Returns this rank's state as the content of a file."""
        buffer = io.BytesIO()
        torch.save(self.learner.state_dict(), buffer)
        return buffer.getvalue()

    def load(self, folder: str, digests: Mapping[str, str]) -> int:
        """Restores this rank's state from a checkpoint folder and returns the policy version.

        Raises DamagedFileError if the file does not have the digest in `digests`.
        """
        name = rank_file(self.rank)
        content = io.BytesIO(read_checked(join(folder, name), digests[name]))
        self.learner.load_state_dict(torch.load(content, map_location=self.device, weights_only=True))
        return self.learner.version


LearnerActor = ray.remote(LearnerRank)


def rank_file(rank: int) -> str:
    """File name of a rank's state in a checkpoint folder."""
    return f"rank-{rank}.pt"

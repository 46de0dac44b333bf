"""One learner rank: an actor around a Learner. `learner_group` is the driver's side of all ranks."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import ray
import torch
from torch.distributed import TCPStore

from actors.files import join, read_checked
from actors.grpo.advantages import Advantages
from actors.grpo.metrics import OptimizerStepMetrics
from actors.grpo.objective import learner_of
from actors.grpo.shares import GroupPart
from actors.optim.fsdp import shard_frozen
from actors.optim.moved_state import move_state
from actors.optim.torch_engine import Engine, OptimizerSettings, TorchEngine
from actors.policy.base import Policy
from actors.policy.registry import load_policy
from actors.policy.start import StartLora
from actors.types import Conditioning, PolicyWeights, Trajectory
from actors.worker_setup import init_worker
from actors.workers.faults import ends_on_device_fault
from actors.workers.process_group import join_process_group, open_store
from actors.workers.profiles import NO_PROFILE, CallProfiler, ProfilePlan
from conf.flux import FluxSettings
from conf.policy import PolicySettings


@dataclass(frozen=True)
class LearnerJob:
    """What every rank is built from."""

    model: str
    flux: FluxSettings
    settings: PolicySettings
    start: StartLora | None = None
    """The LoRA of version 0. None: the policy is its base."""
    profile: ProfilePlan = NO_PROFILE


@ends_on_device_fault("learner")
class LearnerRank:
    """One rank around a Learner."""

    transformer_only: ClassVar[bool] = True
    role: ClassVar[str] = "learner"

    def __init__(self, job: LearnerJob, rank: int) -> None:
        self.job, self.rank = job, rank
        self.device = init_worker(job.settings.learner.threads, job.settings.learner.gpus)
        self._policy_lock = threading.Lock()  # a PolicyWorker samples with the same policy, in other threads
        self._stepped = False  # whether the policy has stepped away from the weights of its version
        self._store: TCPStore | None = None
        self._load_note = ""
        self.profiler = CallProfiler(job.profile, f"{self.role}-{rank}")

    def __repr__(self) -> str:
        """The name in Ray's dashboard and logs."""
        return f"learner rank {self.rank} of {self.job.settings.learner.ranks}"

    def open_store(self) -> str:
        """Opens the store at which the other ranks meet this one, rank 0. Returns host:port; "" if none is needed."""
        if self.job.settings.learner.engine == "torch":
            return ""
        host = ray.util.get_node_ip_address()
        self._store = open_store(host, self.job.settings.learner.ranks)
        return f"{host}:{self._store.port}"

    def start(self, address: str) -> int:
        """Joins the other ranks, if there are any, then builds policy and optimizer. Returns the policy version, 0.

        `address` is that of rank 0's store; only the engine deepspeed needs it.
        """
        settings = self.job.settings
        if settings.learner.engine == "deepspeed":
            join_process_group(address, self.rank, settings.learner.ranks, self.device, self._store)
        # A base that will be sharded is moved to the GPU one block at a time.
        device = torch.device("cpu") if settings.learner.zero_stage == 3 else self.device
        policy = load_policy(
            self.job.model, self.job.flux, device, transformer_only=self.transformer_only, seed=settings.seed
        )
        if self.job.start:
            self.job.start.load_into(policy, is_reference=settings.algorithm.kl_reference == "start")
        self.learner = learner_of(policy, self._engine(policy), settings)
        return self.learner.version

    def _engine(self, policy: Policy) -> Engine:
        settings = self.job.settings
        parameters = list(policy.trainable().values())
        constants = OptimizerSettings(
            settings.optimizer.betas, settings.optimizer.weight_decay, settings.optimizer.max_grad_norm
        )
        if settings.learner.engine == "torch":
            return TorchEngine(parameters, constants)
        if settings.learner.zero_stage == 3:
            shard_frozen(policy.transformer, parameters, self.device)
        from actors.optim.deepspeed_engine import DeepSpeedEngine  # slow to import, and a single rank does not need it

        return DeepSpeedEngine(parameters, constants, min(settings.learner.zero_stage, 2))

    def accumulate(
        self,
        version: int,
        part: GroupPart,
        advantages: Advantages,
        conditioning: Conditioning,
        *trajectories: Trajectory,
    ) -> None:
        """Adds a part of one group's gradient to that of policy version `version`; see Learner.accumulate.

        Raises ValueError if the rank is at another version: the group belongs to an iteration that is over or lost.
        """
        if version != self.learner.version:
            raise ValueError(
                f"a group for policy version {version} reached a learner at version {self.learner.version}"
            )
        with self._policy_lock, self.profiler.call("accumulate", version + 1):
            self.learner.accumulate(advantages, conditioning, trajectories, part)

    def optimizer_step(self, grad_divisor: float) -> OptimizerStepMetrics:
        """Makes one optimizer step together with the other ranks; see Learner.optimizer_step."""
        self._stepped = True
        with self._policy_lock, self.profiler.call("optimizer_step", self.learner.version + 1):
            return self.learner.optimizer_step(grad_divisor)

    def end_iteration(self) -> int:
        """Ends the iteration and returns the new policy version."""
        self._stepped = False
        with self._policy_lock:
            return self.learner.end_iteration()

    def publish(self, averaged: bool) -> tuple[int, PolicyWeights]:
        """Returns the policy version, and its weights or their moving average. Call it with num_returns = 2."""
        with self._policy_lock:
            return self.learner.version, self.learner.ema_weights() if averaged else self.learner.weights()

    def state(self) -> np.ndarray:
        """Returns what a checkpoint holds of this rank as the content of a file, uint8 [bytes], without a copy.

        What is equal on all ranks is in the file of rank 0 only.
        """
        with self._policy_lock:
            state = self.learner.state_dict()
        buffer = io.BytesIO()
        torch.save(state if self.rank == 0 else {key: state[key] for key in _OF_EACH_RANK}, buffer)
        return np.frombuffer(buffer.getbuffer(), np.uint8)

    def load(self, folder: str, digests: Mapping[str, str]) -> int:
        """Restores this rank's state from a checkpoint folder and returns the policy version.

        Other ranks, or another engine, may have written it. Raises DamagedFileError if a file does not have the digest
        in `digests`, which are those of the files of all ranks.
        """
        ranks = len(digests)
        state = _read_state(folder, digests, self.rank) if self.rank < ranks else {}
        if "lora" not in state:  # in older checkpoints the file of every rank holds everything
            state = _read_state(folder, digests, 0) | state
        own = state["engine"] if self.rank < ranks else None
        moved = move_state(
            self.learner.engine, own, ranks, lambda: [_read_state(folder, digests, i)["engine"] for i in range(ranks)]
        )
        self.learner.load_state_dict({**state, "engine": moved.state})
        self._load_note = moved.note
        return self.learner.version

    def load_note(self) -> str:
        """What `load` did to the optimizer's state, if it is not the very state that was saved; else ""."""
        return self._load_note


_OF_EACH_RANK = ("version", "engine")
"""The entries of Learner.state_dict that the files of all ranks hold: the shard of the optimizer differs."""


def _read_state(folder: str, digests: Mapping[str, str], rank: int) -> dict[str, Any]:
    """On the CPU: AdamW keeps its step counts there, because reading one from a GPU waits for the GPU."""
    name = rank_file(rank)
    content = io.BytesIO(read_checked(join(folder, name), digests[name]))
    return torch.load(content, map_location="cpu", weights_only=True)


LearnerActor = ray.remote(LearnerRank)


def rank_file(rank: int) -> str:
    """File name of a rank's state in a checkpoint folder."""
    return f"rank-{rank}.pt"

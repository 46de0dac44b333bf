"""What the learners of all objectives share: policy versions, the moving average, and the state of a checkpoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from actors.grpo.advantages import Advantages
from actors.grpo.ema import MovingAverage
from actors.grpo.metrics import OptimizerStepMetrics
from actors.grpo.shares import WHOLE, GroupPart
from actors.optim.torch_engine import Engine
from actors.policy.base import Policy
from actors.types import Conditioning, PolicyWeights, Trajectory
from conf.policy import PolicySettings


class Learner(ABC):
    """One rank of the learner, a plain class.

    Order of calls in an iteration: accumulate for each group, then optimizer_step; both as often as the iteration has
    optimizer steps; then end_iteration. All ranks must make the same calls, but may accumulate different groups.
    """

    def __init__(self, policy: Policy, engine: Engine, settings: PolicySettings) -> None:
        self.policy, self.engine, self.settings = policy, engine, settings
        self.version = 0
        self.optimizer_steps = 0  # optimizer steps that were applied
        self.ema = MovingAverage(policy.lora_state(), settings.optimizer.ema_decay)

    # --- what an objective defines ----------------------------------------------------------------------------------

    @abstractmethod
    def accumulate(
        self,
        advantages: Advantages,
        conditioning: Conditioning,
        trajectories: Sequence[Trajectory],
        part: GroupPart = WHOLE,
    ) -> None:
        """Adds the gradient of one group, whose weight in an optimizer step is that of every other group.

        `part`: only these of the group's forward passes; other ranks make the others.
        `trajectories` are those of `advantages.kept`, in that order. A skipped group adds nothing, but it still counts
        in the mean over the groups of the optimizer step. Raises ValueError if their numbers differ.
        """

    @abstractmethod
    def optimizer_step(self, score_std: float = 1.0) -> OptimizerStepMetrics:
        """Updates the LoRA with the accumulated gradient.

        `score_std` is `batch_std` of the groups of all ranks, or 1 if each group was divided by its own std.
        """

    @abstractmethod
    def forget_step(self) -> None:
        """Forgets all that was accumulated and measured for an optimizer step."""

    def published_lora(self) -> dict[str, torch.Tensor]:
        """The weights of the current version, which sample: by diffusers' adapter keys, not copied."""
        return self.policy.lora_state()

    @contextmanager
    def sampling(self) -> Generator[None]:
        """Context in which the policy has the weights that sample."""
        yield

    # --- what they share --------------------------------------------------------------------------------------------

    @property
    def local_groups_per_step(self) -> float:
        """This rank's groups of an optimizer step."""
        return self.settings.prompts_per_iteration / self.settings.optimizer.steps_per_iteration / self.engine.ranks

    def end_iteration(self) -> int:
        """Counts the policy version up, adds its weights to the moving average, and returns the version."""
        self.version += 1
        self.ema.update(self.published_lora(), self.version)
        return self.version

    def weights(self) -> PolicyWeights:
        """The LoRA of the current version, copied to numpy arrays."""
        return _numpy_weights(self.version, self.published_lora())

    def ema_weights(self) -> PolicyWeights:
        """The moving average at the current version, copied to numpy arrays."""
        return _numpy_weights(self.version, self.ema.weights)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed learner needs, on the CPU. Valid between iterations."""
        return {
            "version": self.version,
            "optimizer_steps": self.optimizer_steps,
            "lora": _cpu_copies(self.policy.lora_state()),
            "ema": _cpu_copies(self.ema.weights),
            "engine": self.engine.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict`, bit for bit. What was accumulated before is dropped."""
        self.version, self.optimizer_steps = state["version"], state["optimizer_steps"]
        self.policy.load_lora(state["lora"])
        self.ema.weights = {key: value.to(self.policy.device).clone() for key, value in state["ema"].items()}
        self.engine.load_state_dict(state["engine"])
        for parameter in self.engine.parameters:
            parameter.grad = None  # the accumulated gradient belongs to other weights
        self.forget_step()


def check_samples(advantages: Advantages, samples: Sequence[Trajectory]) -> None:
    """Raises ValueError unless there is one sample for each kept image."""
    if len(samples) != len(advantages.kept):
        raise ValueError(
            f"one trajectory for each kept sample is needed, got {len(samples)} and {len(advantages.kept)}"
        )


def _cpu_copies(lora: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.cpu().clone() for key, value in lora.items()}


def _numpy_weights(version: int, lora: Mapping[str, torch.Tensor]) -> PolicyWeights:
    return PolicyWeights(version, {key: value.cpu().numpy().copy() for key, value in lora.items()})

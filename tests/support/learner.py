"""A learner on the tiny FLUX, and groups that its own weights sampled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from actors.grpo.advantages import Advantages, group_advantages
from actors.grpo.learner import GrpoLearner
from actors.optim.torch_engine import OptimizerSettings, TorchEngine
from actors.policy.base import Policy
from actors.policy.flux import FluxPolicy
from actors.policy.plan import SamplingPlan
from actors.policy.sampler import sample
from actors.types import Conditioning, Trajectory
from conf.flux import FluxSettings
from conf.policy import AlgorithmSettings, LearnerSettings, PolicyOptimizerSettings, PolicySettings, SamplingSettings
from tests.support.tiny_flux import TEXTS

SETTINGS = PolicySettings(
    iterations=4,
    prompts_per_iteration=2,
    group_size=4,
    algorithm=AlgorithmSettings(top_k=2, ratio_tolerance=0.0, advantage_std_over="group"),
    sampling=SamplingSettings(denoise_steps=4, window=2),
    learner=LearnerSettings(replay_batch=0),
    optimizer=PolicyOptimizerSettings(steps_per_iteration=1),
)
"""One optimizer step of two groups of four in an iteration."""


@dataclass(frozen=True)
class Group:
    """What the learner gets of one group."""

    advantages: Advantages
    conditioning: Conditioning
    trajectories: list[Trajectory]  # those of advantages.kept

    def add_to(self, learner: GrpoLearner) -> None:
        """Accumulates the group."""
        learner.accumulate(self.advantages, self.conditioning, self.trajectories)


def torch_engine(policy: Policy, settings: PolicySettings) -> TorchEngine:
    """AdamW on the policy's LoRA."""
    optimizer = settings.optimizer
    constants = OptimizerSettings(optimizer.betas, optimizer.weight_decay, optimizer.max_grad_norm)
    return TorchEngine(list(policy.trainable().values()), constants)


def learner_of(directory: Path, settings: PolicySettings = SETTINGS) -> GrpoLearner:
    """A one-rank learner on the FLUX of this directory."""
    policy = FluxPolicy.from_pretrained(str(directory), FluxSettings(), transformer_only=True, seed=settings.seed)
    return GrpoLearner(policy, torch_engine(policy, settings), settings)


def groups_of(policy: FluxPolicy, learner: GrpoLearner, first_seed: int = 0) -> list[Group]:
    """Two groups sampled with the learner's weights, scored by a fixed random direction of the final latents."""
    policy.load_lora(learner.weights().lora)
    direction = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    plan = SamplingPlan.for_training(learner.settings, learner.version)
    groups: list[Group] = []
    for i, conditioning in enumerate(policy.encode(TEXTS)):
        seeds = range(first_seed + 10 * i, first_seed + 10 * i + 4)
        samples = sample(policy, [conditioning] * 4, seeds, plan, learner.version)
        scores = (samples.latents * direction).sum((1, 2)).numpy()
        advantages = group_advantages(scores, learner.settings.algorithm)
        groups.append(Group(advantages, conditioning, [samples.trajectories[k] for k in advantages.kept]))
    return groups


def train(learner: GrpoLearner, policy: FluxPolicy, iterations: int) -> None:
    """Runs iterations of sampling and learning."""
    for _ in range(iterations):
        for group in groups_of(policy, learner, 100 * learner.version):
            group.add_to(learner)
        learner.optimizer_step()
        learner.end_iteration()


def gradients_of(learner: GrpoLearner) -> list[torch.Tensor]:
    """Copies of the gradients that were accumulated."""
    return [parameter.grad.clone() for parameter in learner.engine.parameters if parameter.grad is not None]

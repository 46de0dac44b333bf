"""The GRPO objective of one trained denoise step: a clipped ratio and a divergence from the base policy.

R rows are (sample, denoise step) pairs; S image tokens, C packed latent channels. All float32 or wider.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from actors.policy.transition import GaussianStep


@dataclass(frozen=True)
class PolicyLoss:
    """The terms of each row. Only `loss` has a gradient."""

    loss: torch.Tensor  # [R]
    ratio: torch.Tensor  # [R] detached
    clipped: torch.Tensor  # [R] bool: the clipped ratio decides this row's loss


def clipped_ratio_loss(log_ratio: torch.Tensor, advantage: torch.Tensor, clip_range: float) -> PolicyLoss:
    """max(-A r, -A clip(r, 1 - eps, 1 + eps)) with r = exp(log_ratio). All [R].

    PPO's surrogate as in Flow-GRPO, Eq. 5: one ratio for each trained denoise step. Log-probabilities are means over
    the elements of a latent.
    """
    ratio = torch.exp(log_ratio)
    plain = -advantage * ratio
    bounded = -advantage * ratio.clamp(1 - clip_range, 1 + clip_range)
    return PolicyLoss(torch.maximum(plain, bounded), ratio.detach(), (bounded > plain).detach())


@dataclass(frozen=True)
class Prediction:
    """What a model predicts at the latents of a batch."""

    velocity: torch.Tensor  # [R, S, C]
    gaussian: GaussianStep


Divergence = Callable[[Prediction, Prediction], torch.Tensor]
"""(policy, base) -> [R] distance of the policy from its base."""


def kl_flow_grpo(new: Prediction, base: Prediction) -> torch.Tensor:
    """Flow-GRPO's form: mean (mu - mu_ref)^2 / (2 sigma_t^2), which omits |dt|. Returns [R]."""
    return ((new.gaussian.mean - base.gaussian.mean) ** 2 / (2 * new.gaussian.diffusion**2)).mean(dim=(1, 2))


def kl_gaussian(new: Prediction, base: Prediction) -> torch.Tensor:
    """The KL divergence of the two Gaussians, per element: mean (mu - mu_ref)^2 / (2 std^2). Returns [R].

    For Flow-SDE it is `kl_flow_grpo` / |dt|: four to ten times larger at six steps.
    """
    return ((new.gaussian.mean - base.gaussian.mean) ** 2 / (2 * new.gaussian.std**2)).mean(dim=(1, 2))


def kl_velocity(new: Prediction, base: Prediction) -> torch.Tensor:
    """`velocity_distance`: has the same weight at every noise level. Returns [R]."""
    return velocity_distance(new.velocity, base.velocity)


def velocity_distance(velocity: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of two velocities [R, S, C] over the elements of each row. Returns [R]."""
    return ((velocity - base) ** 2).mean(dim=(1, 2))


def divergence_of(name: Literal["flow_grpo", "gaussian", "velocity"]) -> Divergence:
    """The divergence that `policy.algorithm.kl_form` names. Raises ValueError for any other name."""
    match name:
        case "flow_grpo":
            return kl_flow_grpo
        case "gaussian":
            return kl_gaussian
        case "velocity":
            return kl_velocity
    raise ValueError(f"kl_form must be one of flow_grpo, gaussian, velocity, got {name!r}")

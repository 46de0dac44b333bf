"""The GRPO objective of one trained step: a clipped ratio and a divergence from the base policy.

R rows are (sample, step) pairs; S image tokens, C packed latent channels. All float32 or wider.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from actors.policy.transition import GaussianStep


@dataclass(frozen=True)
class PolicyLoss:
    """Per-row terms; `loss` carries the gradient."""

    loss: torch.Tensor  # [R]
    ratio: torch.Tensor  # [R] detached
    clipped: torch.Tensor  # [R] bool: the clip, not the ratio, decides this row's loss


def clipped_ratio_loss(log_ratio: torch.Tensor, advantage: torch.Tensor, clip_range: float) -> PolicyLoss:
    """max(-A r, -A clip(r, 1 - eps, 1 + eps)) with r = exp(log_ratio). All [R].

    PPO's surrogate as in Flow-GRPO, Eq. 5: one ratio a trained step, on the log-prob's mean over elements.
    """
    ratio = torch.exp(log_ratio)
    plain = -advantage * ratio
    bounded = -advantage * ratio.clamp(1 - clip_range, 1 + clip_range)
    return PolicyLoss(torch.maximum(plain, bounded), ratio.detach(), (bounded > plain).detach())


def ratio_norm(log_ratio: torch.Tensor, mean: torch.Tensor, old_mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """std * (log r + mean (mu - mu_old)^2 / (2 std^2)): GRPO-Guard's RatioNorm (arXiv 2510.22319).

    Under the old policy log r has the mean that is added here with its sign turned, and a deviation in proportion to
    1 / std: so normalised, ratios of all steps are centred at 1 and a clip range means the same at each. The gradient
    of a step is then to be divided by |dt|. log_ratio [R], means [R, S, C], std [R, 1, 1]. Returns [R].
    """
    drift = ((mean - old_mean) ** 2 / (2 * std**2)).mean(dim=(1, 2))
    return (log_ratio + drift) * std.flatten()


@dataclass(frozen=True)
class Prediction:
    """One model's prediction at a replayed latent."""

    velocity: torch.Tensor  # [R, S, C]
    gaussian: GaussianStep


Divergence = Callable[[Prediction, Prediction], torch.Tensor]


def kl_flow_grpo(new: Prediction, base: Prediction) -> torch.Tensor:
    """mean (mu - mu_ref)^2 / (2 sigma_t^2): Flow-GRPO's form, which leaves |dt| out. Returns [R]."""
    return ((new.gaussian.mean - base.gaussian.mean) ** 2 / (2 * new.gaussian.diffusion**2)).mean(dim=(1, 2))


def kl_gaussian(new: Prediction, base: Prediction) -> torch.Tensor:
    """mean (mu - mu_ref)^2 / (2 std^2): the KL divergence between the two steps, per element. Returns [R].

    For Flow-SDE it is `kl_flow_grpo` / |dt|: four to ten times larger at six steps.
    """
    return ((new.gaussian.mean - base.gaussian.mean) ** 2 / (2 * new.gaussian.std**2)).mean(dim=(1, 2))


def kl_velocity(new: Prediction, base: Prediction) -> torch.Tensor:
    """`velocity_distance`: the same weight at every noise level. Returns [R]."""
    return velocity_distance(new.velocity, base.velocity)


def velocity_distance(velocity: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """mean (v - v_base)^2 over a row's elements. Both [R, S, C]; returns [R]."""
    return ((velocity - base) ** 2).mean(dim=(1, 2))


def divergence_of(name: str) -> Divergence:
    """The divergence named by `policy.algorithm.kl_form`."""
    match name:
        case "flow_grpo":
            return kl_flow_grpo
        case "gaussian":
            return kl_gaussian
        case "velocity":
            return kl_velocity
    raise ValueError(f"kl_form must be one of flow_grpo, gaussian, velocity, got {name!r}")

"""Extension `policy.algorithm.ratio_norm=grpo_guard`: GRPO-Guard's RatioNorm (arXiv 2510.22319). Flow-SDE only.

R rows are (sample, denoise step) pairs; S image tokens, C packed latent channels.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from actors.grpo.loss import PolicyLoss, clipped_ratio_loss
from actors.grpo.replay import ReplayBatch
from actors.policy.transition import GaussianStep


def ratio_norm(log_ratio: torch.Tensor, mean: torch.Tensor, old_mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """The normalized log-ratio: std * (log r + mean (mu - mu_old)^2 / (2 std^2)).

    Under the old policy, log r has the mean -(mu - mu_old)^2 / (2 std^2), and a deviation proportional to 1 / std. The
    normalized ratios of all denoise steps are centred at 1 and equally wide, so one clip range fits all steps.
    log_ratio [R], means [R, S, C], std [R, 1, 1]. Returns [R].
    """
    drift = ((mean - old_mean) ** 2 / (2 * std**2)).mean(dim=(1, 2))
    return (log_ratio + drift) * std.flatten()


def guarded_ratio_loss(log_ratio: torch.Tensor, batch: ReplayBatch, new: GaussianStep, clip_range: float) -> PolicyLoss:
    """`clipped_ratio_loss` of the normalized log-ratio [R], divided by |dt| of each row's denoise step.

    Raises ValueError if the trajectories do not contain the sampler's means.
    """
    if batch.mean is None:
        raise ValueError("GRPO-Guard needs the sampler's means: sample with SamplingPlan(keep_means=True)")
    terms = clipped_ratio_loss(ratio_norm(log_ratio, new.mean, batch.mean, new.std), batch.advantage, clip_range)
    return replace(terms, loss=terms.loss / (batch.s - batch.s_next))

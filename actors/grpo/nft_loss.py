"""The objective of DiffusionNFT (arXiv 2509.16117): contrasts two implicit policies on images with fresh noise.

v_old is the velocity of the policy that sampled the images, v that of the policy in training. The implicit positive
policy is v+ = (1 - b) v_old + b v, the negative one is v- = (1 + b) v_old - b v: its mirror image about v_old. Images
that are better than their group pull v+ to themselves, worse ones pull v-, so they push v away.
R rows are (image, noise level) pairs; S image tokens, C packed latent channels. All float32 or wider.
"""

from __future__ import annotations

import torch

MIN_RESIDUAL = 1e-5
"""The smallest mean |residual| that the adaptive weight divides by, as in the authors' code."""


def optimality(advantage: torch.Tensor, advantage_range: float) -> torch.Tensor:
    """The share in [0, 1] by which an image is a positive one: 1/2 + clip(A / range, -1, 1) / 2. All [R]."""
    return 0.5 + (advantage / advantage_range).clamp(-1, 1) / 2


def nft_loss(
    velocity: torch.Tensor,
    old: torch.Tensor,
    target: torch.Tensor,
    s: torch.Tensor,
    advantage: torch.Tensor,
    beta: float,
    advantage_range: float,
) -> torch.Tensor:
    """(range / b) (r D(v+) + (1 - r) D(v-)), where D is `weighted_distance` to the target. Returns [R].

    `velocity` v, `old` v_old and `target` eps - x0 are [R, S, C], `s` and `advantage` A are [R]. Only `velocity` has a
    gradient. The factor range / b is that of the authors' code: where v = v_old, the gradient is that of A D(v),
    whatever `beta` and `advantage_range` are. Where v has left v_old, range x b is the strength of what pulls it back.
    """
    positive = weighted_distance((1 - beta) * old + beta * velocity, target, s)
    negative = weighted_distance((1 + beta) * old - beta * velocity, target, s)
    r = optimality(advantage, advantage_range)
    return advantage_range / beta * (r * positive + (1 - r) * negative)


def weighted_distance(velocity: torch.Tensor, target: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """Mean e^2 / mean |e| with e = s (v - v_target), the error of the predicted image x0. Returns [R].

    The divisor has no gradient: it gives every noise level about the same weight (the paper's adaptive weighting).
    """
    residual = s[:, None, None] * (velocity - target)
    divisor = residual.detach().abs().mean(dim=(1, 2)).clamp_min(MIN_RESIDUAL)
    return (residual**2).mean(dim=(1, 2)) / divisor

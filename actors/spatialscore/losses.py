"""Losses on a pair of Gaussian scores: the winner's N(mu_w, sigma_w^2) against the loser's N(mu_l, sigma_l^2).

All are pure, computed in float32, and return one value a pair  # [B]. Each tends to 0 as mu_w - mu_l grows.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def bt(mu_w: Tensor, mu_l: Tensor) -> Tensor:
    """Bradley-Terry on the means: -log sigmoid(mu_w - mu_l)  # [B]."""
    return -F.logsigmoid(mu_w.float() - mu_l.float())


def sampled_bt(mu_w: Tensor, sigma_w: Tensor, mu_l: Tensor, sigma_l: Tensor, *, noise: Tensor) -> Tensor:
    """The paper's loss: E[-log sigmoid(s_w - s_l)] with s ~ N(mu, sigma^2), by N reparametrised draws  # [B].

    noise: standard normal [N, B]. -log sigmoid is convex, so this always rises with sigma: under it sigma shrinks, and
    is no measure of doubt.
    """
    mean, spread = _difference(mu_w, sigma_w, mu_l, sigma_l)
    return -F.logsigmoid(mean + spread * noise).mean(dim=0)


def marginal_bt(mu_w: Tensor, sigma_w: Tensor, mu_l: Tensor, sigma_l: Tensor) -> Tensor:
    """-log E[sigmoid(s_w - s_l)] by MacKay's approximation: -log sigmoid(d / sqrt(1 + pi v / 8))  # [B].

    d = mu_w - mu_l and v = sigma_w^2 + sigma_l^2. Here an honest sigma lowers the loss of a pair that is wrong.
    """
    mean, spread = _difference(mu_w, sigma_w, mu_l, sigma_l)
    return -F.logsigmoid(mean / torch.sqrt(1.0 + math.pi * spread.square() / 8.0))


def probit(mu_w: Tensor, sigma_w: Tensor, mu_l: Tensor, sigma_l: Tensor) -> Tensor:
    """Thurstone's P(s_w > s_l): -log Phi(d / sqrt(sigma_w^2 + sigma_l^2))  # [B]."""
    mean, spread = _difference(mu_w, sigma_w, mu_l, sigma_l)
    return -torch.special.log_ndtr(mean / spread)


def pair_loss(
    name: str,
    mu_w: Tensor,
    sigma_w: Tensor,
    mu_l: Tensor,
    sigma_l: Tensor,
    *,
    noise: Tensor | None = None,
) -> Tensor:
    """The loss called `name` (bt | sampled | marginal | probit), one value a pair  # [B].

    noise: standard normal [N, B], of `sampled` alone. Raises ValueError for another name, or where it is missing.
    """
    match name:
        case "bt":
            return bt(mu_w, mu_l)
        case "sampled":
            if noise is None:
                raise ValueError("the loss sampled needs noise [N, B], got none")
            return sampled_bt(mu_w, sigma_w, mu_l, sigma_l, noise=noise)
        case "marginal":
            return marginal_bt(mu_w, sigma_w, mu_l, sigma_l)
        case "probit":
            return probit(mu_w, sigma_w, mu_l, sigma_l)
    raise ValueError(f"the loss must be one of bt, sampled, marginal, probit, got {name!r}")


def _difference(mu_w: Tensor, sigma_w: Tensor, mu_l: Tensor, sigma_l: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of s_w - s_l  # [B], [B]."""
    return mu_w.float() - mu_l.float(), torch.sqrt(sigma_w.float().square() + sigma_l.float().square())

"""Preference losses on the Gaussian scores of a winner and a loser: s_w ~ N(mu_w, sigma_w^2), s_l ~ N(mu_l, sigma_l^2).

Axes: C comparisons, N draws. All losses are computed in float32, return one value per comparison  # [C], and fall to 0
as mu_w - mu_l grows. Names in settings: bt, sampled (`sampled_bt`), marginal (`marginal_bt`), probit.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

LossName = Literal["bt", "sampled", "marginal", "probit"]
"""Values of the setting `reward.loss`."""


def bt(mu_w: Tensor, mu_l: Tensor) -> Tensor:
    """Bradley-Terry on the means: -log sigmoid(mu_w - mu_l)  # [C]."""
    return -F.logsigmoid(mu_w.float() - mu_l.float())


def sampled_bt(mu_w: Tensor, sigma_w: Tensor, mu_l: Tensor, sigma_l: Tensor, *, noise: Tensor) -> Tensor:
    """The paper's loss: E[-log sigmoid(s_w - s_l)], estimated with N reparametrized draws  # [C].

    noise: standard normal [N, C]. s_w - s_l is Gaussian, so one draw per comparison is enough. -log sigmoid is convex:
    by Jensen's inequality the loss grows with sigma. Training therefore shrinks sigma, and sigma does not measure
    uncertainty.
    """
    mean, std = _difference(mu_w, sigma_w, mu_l, sigma_l)
    return -F.logsigmoid(mean + std * noise).mean(dim=0)


def marginal_bt(mu_w: Tensor, sigma_w: Tensor, mu_l: Tensor, sigma_l: Tensor) -> Tensor:
    """-log E[sigmoid(s_w - s_l)] by MacKay's approximation: -log sigmoid(d / sqrt(1 + pi v / 8))  # [C].

    d = mu_w - mu_l and v = sigma_w^2 + sigma_l^2. A larger sigma lowers the loss of a pair in the wrong order, so sigma
    can learn the uncertainty.
    """
    mean, std = _difference(mu_w, sigma_w, mu_l, sigma_l)
    return -F.logsigmoid(mean / torch.sqrt(1.0 + math.pi * std.square() / 8.0))


def probit(mu_w: Tensor, sigma_w: Tensor, mu_l: Tensor, sigma_l: Tensor) -> Tensor:
    """Thurstone's P(s_w > s_l): -log Phi(d / sqrt(sigma_w^2 + sigma_l^2)), with d = mu_w - mu_l  # [C]."""
    mean, std = _difference(mu_w, sigma_w, mu_l, sigma_l)
    return -torch.special.log_ndtr(mean / std)


def pair_loss(
    name: LossName,
    mu_w: Tensor,
    sigma_w: Tensor,
    mu_l: Tensor,
    sigma_l: Tensor,
    *,
    noise: Tensor | None = None,
) -> Tensor:
    """The loss with this name, one value per comparison  # [C].

    noise: standard normal [N, C], required by `sampled` only. Raises ValueError if it is missing or the name is
    unknown.
    """
    match name:
        case "bt":
            return bt(mu_w, mu_l)
        case "sampled":
            if noise is None:
                raise ValueError("the loss sampled needs noise [N, C], got none")
            return sampled_bt(mu_w, sigma_w, mu_l, sigma_l, noise=noise)
        case "marginal":
            return marginal_bt(mu_w, sigma_w, mu_l, sigma_l)
        case "probit":
            return probit(mu_w, sigma_w, mu_l, sigma_l)
        case _:
            raise ValueError(f"the loss must be one of bt, sampled, marginal, probit, got {name!r}")


def _difference(mu_w: Tensor, sigma_w: Tensor, mu_l: Tensor, sigma_l: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of s_w - s_l for independent scores  # [C], [C]."""
    return mu_w.float() - mu_l.float(), torch.sqrt(sigma_w.float().square() + sigma_l.float().square())

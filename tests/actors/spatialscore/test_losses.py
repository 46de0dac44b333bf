"""The losses against closed forms in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from actors.spatialscore.losses import bt, marginal_bt, pair_loss, probit, sampled_bt

MU_W = torch.tensor([1.0, -2.0, 0.3, 40.0])
MU_L = torch.tensor([0.5, 0.0, 0.3, -40.0])
SIGMA_W = torch.tensor([0.2, 1.0, 2.0, 0.1])
SIGMA_L = torch.tensor([0.4, 1.0, 0.5, 0.1])


def _expected(function: str) -> np.ndarray:
    """E over s of the loss by numerical integration in float64."""
    values = []
    for mean, spread in zip((MU_W - MU_L).double(), torch.hypot(SIGMA_W, SIGMA_L).double(), strict=True):
        z = mean.item() + spread.item() * np.linspace(-12, 12, 200001)
        weight = stats.norm.pdf(np.linspace(-12, 12, 200001))
        weight /= weight.sum()
        if function == "sampled":
            values.append((np.logaddexp(0, -z) * weight).sum())
        else:
            values.append(-math.log((weight / (1 + np.exp(-z))).sum()))
    return np.array(values)


def _noise(draws: int, pairs: int) -> torch.Tensor:
    return torch.randn((draws, pairs), generator=torch.Generator().manual_seed(0))


def test_bt_is_the_log_sigmoid_of_the_difference() -> None:
    np.testing.assert_allclose(bt(MU_W, MU_L), np.logaddexp(0, -(MU_W - MU_L).double().numpy()), rtol=1e-5, atol=1e-7)


def test_sampled_is_the_expected_bt_loss() -> None:
    got = sampled_bt(MU_W, SIGMA_W, MU_L, SIGMA_L, noise=_noise(200_000, 4))
    np.testing.assert_allclose(got, _expected("sampled"), atol=8e-3)


def test_marginal_is_near_the_log_of_the_expected_probability() -> None:
    np.testing.assert_allclose(marginal_bt(MU_W, SIGMA_W, MU_L, SIGMA_L), _expected("marginal"), atol=0.03)


def test_probit_is_thurstones_probability_and_stays_finite_in_the_tail() -> None:
    spread = torch.hypot(SIGMA_W, SIGMA_L).double()
    wanted = -stats.norm.logcdf(((MU_W - MU_L).double() / spread).numpy())
    np.testing.assert_allclose(probit(MU_W, SIGMA_W, MU_L, SIGMA_L), wanted, rtol=1e-4, atol=1e-6)
    assert torch.isfinite(probit(-MU_W, SIGMA_W, -MU_L, SIGMA_L)).all()


def test_only_marginal_and_probit_let_doubt_lower_the_loss_of_a_wrong_pair() -> None:
    wrong, none = torch.tensor([-2.0]), torch.zeros(1)
    for name, doubt_pays in (("sampled", False), ("marginal", True), ("probit", True)):
        sure, unsure = (
            pair_loss(name, wrong, sigma, none, sigma, noise=_noise(50_000, 1))
            for sigma in (torch.tensor([0.5]), torch.tensor([3.0]))
        )
        assert bool(unsure < sure) is doubt_pays, name


def test_an_unknown_loss_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"bt, sampled, marginal, probit.*'hinge'"):
        pair_loss("hinge", MU_W, SIGMA_W, MU_L, SIGMA_L)

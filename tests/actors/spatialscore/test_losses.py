"""Every loss and its gradient against an independent formula in float64: numpy, scipy and finite differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from actors.spatialscore.losses import LossName, bt, marginal_bt, pair_loss, probit, sampled_bt

MU_W = np.array([1.0, -2.0, 0.3, 0.0, 2.5])
MU_L = np.array([0.5, 0.0, 0.3, 1.5, -1.0])
SIGMA_W = np.array([0.2, 1.0, 2.0, 0.7, 0.4])
SIGMA_L = np.array([0.4, 1.0, 0.5, 1.9, 1.3])
SCORES = (MU_W, SIGMA_W, MU_L, SIGMA_L)
NOISE = np.random.default_rng(0).standard_normal((7, 5))
NAMES: tuple[LossName, ...] = ("bt", "sampled", "marginal", "probit")

Formula = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _bt(mu_w: np.ndarray, sigma_w: np.ndarray, mu_l: np.ndarray, sigma_l: np.ndarray) -> np.ndarray:
    """-log(e^mu_w / (e^mu_w + e^mu_l)): the Bradley-Terry probability that w wins."""
    return -np.log(np.exp(mu_w) / (np.exp(mu_w) + np.exp(mu_l)))


def _sampled(mu_w: np.ndarray, sigma_w: np.ndarray, mu_l: np.ndarray, sigma_l: np.ndarray) -> np.ndarray:
    """Mean over draws of the Bradley-Terry loss of s_w - s_l, whose variance is the sum of both."""
    variance = sigma_w * sigma_w + sigma_l * sigma_l
    return np.mean([np.log1p(np.exp(-(mu_w - mu_l + variance**0.5 * draw))) for draw in NOISE], axis=0)


def _marginal(mu_w: np.ndarray, sigma_w: np.ndarray, mu_l: np.ndarray, sigma_l: np.ndarray) -> np.ndarray:
    """MacKay 1992: -log of a sigmoid with the slope kappa = (1 + pi v / 8)^(-1/2)."""
    kappa = (1.0 + 0.39269908169872414 * (sigma_w**2 + sigma_l**2)) ** -0.5
    return -np.log(1.0 / (1.0 + np.exp(-kappa * (mu_w - mu_l))))


def _probit(mu_w: np.ndarray, sigma_w: np.ndarray, mu_l: np.ndarray, sigma_l: np.ndarray) -> np.ndarray:
    """-log P(s_w - s_l > 0), as the survival function of the Gaussian of the difference."""
    return -np.log(stats.norm.sf(0.0, loc=mu_w - mu_l, scale=np.hypot(sigma_w, sigma_l)))


FORMULAS: dict[LossName, Formula] = {"bt": _bt, "sampled": _sampled, "marginal": _marginal, "probit": _probit}


def _tensors(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """mu_w, sigma_w, mu_l, sigma_l  # [C] each."""
    return [torch.tensor(values, dtype=dtype, requires_grad=True) for values in SCORES]


def _noise() -> torch.Tensor:
    return torch.tensor(NOISE, dtype=torch.float32)


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_equals_its_formula_for_each_comparison(name: LossName) -> None:
    losses = pair_loss(name, *_tensors(), noise=_noise())
    np.testing.assert_allclose(losses.detach().numpy(), FORMULAS[name](*SCORES), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_equals_finite_differences_of_the_formula(name: LossName) -> None:
    inputs = _tensors()
    pair_loss(name, *inputs, noise=_noise()).sum().backward()
    for position, tensor in enumerate(inputs):
        shifted = [[*SCORES], [*SCORES]]
        for sign, scores in zip((1, -1), shifted, strict=True):
            scores[position] = scores[position] + sign * 1e-5
        expected = (FORMULAS[name](*shifted[0]) - FORMULAS[name](*shifted[1])) / 2e-5
        gradient = np.zeros(5) if tensor.grad is None else tensor.grad.numpy()
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-5, err_msg=f"input {position}")


def test_each_name_selects_its_function() -> None:
    mu_w, sigma_w, mu_l, sigma_l = _tensors()
    by_function = {
        "bt": bt(mu_w, mu_l),
        "sampled": sampled_bt(mu_w, sigma_w, mu_l, sigma_l, noise=_noise()),
        "marginal": marginal_bt(mu_w, sigma_w, mu_l, sigma_l),
        "probit": probit(mu_w, sigma_w, mu_l, sigma_l),
    }
    for name in NAMES:
        assert torch.equal(pair_loss(name, mu_w, sigma_w, mu_l, sigma_l, noise=_noise()), by_function[name])


def _expectation(function: Callable[[float], float], mean: float, std: float) -> float:
    """E[function(s)] for s ~ N(mean, std^2), by numerical integration."""
    return quad(lambda z: function(mean + std * z) * stats.norm.pdf(z), -10, 10)[0]


def test_sampled_estimates_the_expected_bradley_terry_loss() -> None:
    noise = torch.randn((200_000, 5), generator=torch.Generator().manual_seed(0))
    losses = sampled_bt(*_tensors(), noise=noise).detach().numpy()
    spreads = np.hypot(SIGMA_W, SIGMA_L)
    expected = [_expectation(lambda s: float(np.logaddexp(0, -s)), *pair) for pair in zip(MU_W - MU_L, spreads)]  # noqa: B905
    np.testing.assert_allclose(losses, expected, atol=8e-3)


def test_marginal_approximates_the_log_of_the_expected_probability() -> None:
    losses = marginal_bt(*_tensors()).detach().numpy()
    spreads = np.hypot(SIGMA_W, SIGMA_L)
    probability = [_expectation(lambda s: float(1 / (1 + np.exp(-s))), *pair) for pair in zip(MU_W - MU_L, spreads)]  # noqa: B905
    np.testing.assert_allclose(losses, -np.log(probability), atol=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_and_its_gradient_stay_finite_for_extreme_scores(name: LossName) -> None:
    mu_w = torch.tensor([40.0, -40.0], requires_grad=True)
    sigma = torch.tensor([0.1, 0.1], requires_grad=True)
    noise = torch.zeros(3, 2)
    losses = pair_loss(name, mu_w, sigma, -mu_w, sigma, noise=noise)
    losses.sum().backward()
    assert mu_w.grad is not None
    assert torch.isfinite(losses).all()
    assert torch.isfinite(mu_w.grad).all()
    assert losses[0].item() == pytest.approx(0.0, abs=1e-6)
    assert losses[1].item() > 50


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_scores_are_computed_in_float32(name: LossName) -> None:
    """The losers' scores are small, so that the differences need more digits than bfloat16 has."""
    scores = np.random.default_rng(1).uniform(0.1, 3.0, (4, 5)) * np.array([[1.0], [1.0], [0.03], [1.0]])
    inputs = [torch.tensor(values, dtype=torch.bfloat16) for values in scores]
    losses = pair_loss(name, *inputs, noise=_noise())
    rounded = [value.double().numpy() for value in inputs]
    assert losses.dtype == torch.float32
    np.testing.assert_allclose(losses.numpy(), FORMULAS[name](*rounded), rtol=2e-5, atol=1e-6)


def test_a_larger_sigma_lowers_the_loss_of_a_wrong_pair_for_marginal_and_probit_only() -> None:
    wrong, zero = torch.tensor([-2.0]), torch.zeros(1)
    noise = torch.randn((50_000, 1), generator=torch.Generator().manual_seed(0))
    expected: dict[LossName, bool] = {"sampled": False, "marginal": True, "probit": True}
    for name, lowers in expected.items():
        certain, uncertain = (
            pair_loss(name, wrong, sigma, zero, sigma, noise=noise)
            for sigma in (torch.tensor([0.5]), torch.tensor([3.0]))
        )
        assert bool(uncertain < certain) is lowers, name


def test_an_unknown_loss_or_missing_noise_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bt, sampled, marginal, probit.*'hinge'"):
        pair_loss("hinge", *_tensors())  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="needs noise"):
        pair_loss("sampled", *_tensors())

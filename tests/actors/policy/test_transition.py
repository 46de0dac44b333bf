from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from actors.policy.transition import (
    GaussianStep,
    cps,
    cps_log_prob,
    euler,
    flow_sde,
    flow_sde_diffusion,
    flow_sde_log_prob,
    transition_of,
)

PAIRS = [(1.0, 0.9037), (0.9037, 0.7897), (0.4842, 0.2730)]


def numpy_flow_sde(x: np.ndarray, v: np.ndarray, s: float, s_next: float, a: float) -> tuple[np.ndarray, float]:
    """Euler-Maruyama written from the other form of the drift: v + sigma^2 / (2 s) (x + (1 - s) v)."""
    sigma = a * math.sqrt(s / (1 - (s_next if s == 1 else s)))
    dt = s_next - s
    return x + (v + sigma**2 / (2 * s) * (x + (1 - s) * v)) * dt, sigma * math.sqrt(-dt)


def numpy_cps(x: np.ndarray, v: np.ndarray, s: float, s_next: float, a: float) -> tuple[np.ndarray, float]:
    std = s_next * math.sin(a * math.pi / 2)
    clean, noise = x - s * v, x + (1 - s) * v
    return (1 - s_next) * clean + math.sqrt(s_next**2 - std**2) * noise, std


@pytest.mark.parametrize(("s", "s_next"), PAIRS)
def test_steps_and_log_probs_match_float64_numpy(s: float, s_next: float) -> None:
    rng = np.random.default_rng(0)
    x, v, drawn = rng.normal(size=(3, 2, 5, 4))
    args = [torch.tensor(value, dtype=torch.float32) for value in (x, v)]
    times = torch.full((2,), s), torch.full((2,), s_next)

    step = flow_sde(*args, *times, 0.7)
    mean, std = numpy_flow_sde(x, v, s, s_next, 0.7)
    density = -((drawn - mean) ** 2) / (2 * std**2) - math.log(std) - 0.5 * math.log(2 * math.pi)
    np.testing.assert_allclose(step.mean, mean, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(step.std.flatten(), [std, std], rtol=1e-5)
    log_prob = flow_sde_log_prob(torch.tensor(drawn, dtype=torch.float32), step)
    np.testing.assert_allclose(log_prob, density.mean((1, 2)), rtol=1e-5)

    step = cps(*args, *times, 0.7)
    mean, std = numpy_cps(x, v, s, s_next, 0.7)
    np.testing.assert_allclose(step.mean, mean, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(step.std.flatten(), [std, std], rtol=1e-5)
    log_prob = cps_log_prob(torch.tensor(drawn, dtype=torch.float32), step)
    np.testing.assert_allclose(log_prob, -((drawn - mean) ** 2).mean((1, 2)), rtol=1e-5)


def test_a_step_computed_by_hand() -> None:
    """x = 2, v = 1, s = 0.5 -> 0.25, a = 1: sigma = 1, mean = 2 (1 - 0.25) + 1 (1 + 0.5) (-0.25) = 1.125, std = 0.5."""
    x, v = torch.full((1, 1, 1), 2.0), torch.ones(1, 1, 1)
    step = flow_sde(x, v, torch.tensor([0.5]), torch.tensor([0.25]), 1.0)
    assert (step.mean.item(), step.std.item(), step.diffusion.item()) == (1.125, 0.5, 1.0)
    log_prob = flow_sde_log_prob(torch.full((1, 1, 1), 1.625), step)  # one std away
    assert log_prob.item() == pytest.approx(-0.5 - math.log(0.5) - 0.5 * math.log(2 * math.pi))


def test_at_s_one_only_the_denominator_uses_the_next_noise_level() -> None:
    s, s_next = torch.tensor([1.0, 0.8]), torch.tensor([0.8, 0.6])
    expected = [0.7 * math.sqrt(1 / (1 - 0.8)), 0.7 * math.sqrt(0.8 / (1 - 0.8))]
    torch.testing.assert_close(flow_sde_diffusion(s, s_next, 0.7), torch.tensor(expected))


@pytest.mark.parametrize("name", ["flow_sde", "cps"])
def test_noise_zero_is_the_euler_step(name: str) -> None:
    x, v = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    s, s_next = torch.tensor([1.0, 0.7]), torch.tensor([0.7, 0.4])
    step = transition_of(name).step(x, v, s, s_next, 0.0)
    torch.testing.assert_close(step.mean, euler(x, v, s, s_next), rtol=1e-5, atol=1e-6)
    assert not step.std.any()


def test_steps_are_float32_for_a_bfloat16_model() -> None:
    x, v = torch.randn(2, 1, 3, 4).bfloat16()
    s, s_next = torch.tensor([0.7]), torch.tensor([0.4])
    assert flow_sde(x, v, s, s_next, 0.7).mean.dtype == torch.float32
    assert euler(x, v, s, s_next).dtype == torch.float32
    assert flow_sde(x.double(), v.double(), s, s_next, 0.7).mean.dtype == torch.float64


def test_the_log_prob_has_a_gradient_for_the_velocity_only() -> None:
    x, drawn = torch.randn(2, 1, 3, 4)
    v = torch.randn(1, 3, 4, requires_grad=True)
    drawn.requires_grad_()
    for transition in (transition_of("flow_sde"), transition_of("cps")):
        transition.log_prob(
            drawn, transition.step(x, v, torch.tensor([0.7]), torch.tensor([0.4]), 0.7)
        ).sum().backward()
        assert drawn.grad is None and v.grad is not None and v.grad.abs().sum() > 0


# --- marginals ------------------------------------------------------------------------------------------------------
# Data x0 ~ N(m, d^2): x_s ~ N((1 - s) m, (1 - s)^2 d^2 + s^2) and E[eps - x0 | x_s] is linear in x_s.

MEAN, SPREAD = 1.5, 0.1


def velocity(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    s = s.view(-1, 1, 1)
    variance = (1 - s) ** 2 * SPREAD**2 + s**2
    return (s - (1 - s) * SPREAD**2) / variance * (x - (1 - s) * MEAN) - MEAN


def final_std(step_of: Callable[..., GaussianStep | torch.Tensor], steps: int) -> float:
    """Spread of 100,000 samples after `steps` steps of the FLUX schedule at shift 3, started from noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 100, 1000, generator=generator, dtype=torch.float64)
    s = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    s = 3 * s / (1 + 2 * s)
    for now, after in zip(s[:-1, None], s[1:, None], strict=True):
        step = step_of(x, velocity(x, now), now, after)
        if isinstance(step, GaussianStep):
            step = step.mean + step.std * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        x = step
    return x.std().item()


def test_flow_sde_nears_the_data_as_steps_grow_and_is_too_noisy_at_six() -> None:
    """At six steps the last Euler-Maruyama step leaves noise in the image; many steps give the data's spread."""
    noisy = {steps: final_std(lambda *a: flow_sde(*a, 0.7), steps) for steps in (6, 96, 384)}
    assert noisy[6] > 3 * SPREAD
    assert abs(noisy[384] - SPREAD) < abs(noisy[96] - SPREAD) < abs(noisy[6] - SPREAD)
    assert noisy[384] == pytest.approx(SPREAD, rel=0.03)
    assert final_std(euler, 384) == pytest.approx(SPREAD, rel=0.05)


@pytest.mark.parametrize("steps", [6, 24])
def test_cps_keeps_the_noise_that_the_level_asks_for(steps: int) -> None:
    """With a known x0 (a point mass), x_s must hold noise of exactly s at every step. Flow-SDE holds more."""
    generator = torch.Generator().manual_seed(1)
    s = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    s = (3 * s / (1 + 2 * s))[:-1]
    spread: dict[str, list[float]] = {"cps": [], "flow_sde": []}
    for name, values in spread.items():
        transition = transition_of(name)
        x = torch.randn(1, 100, 1000, generator=generator, dtype=torch.float64)
        for now, after in zip(s[:-1, None], s[1:, None], strict=True):
            step = transition.step(x, (x - MEAN) / now, now, after, 0.7)
            x = step.mean + step.std * torch.randn(x.shape, generator=generator, dtype=torch.float64)
            values.append(x.std().item() / after.item())
    np.testing.assert_allclose(spread["cps"], 1.0, atol=0.005)
    assert max(spread["flow_sde"]) > 1.05

from __future__ import annotations

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from actors.policy.schedule import shifted_sigmas


def flux_dev_scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)


def test_flux_dev_at_512_pixels_and_six_steps() -> None:
    """Hand-computed: S = 1024, mu = 0.63, s <- e^mu / (e^mu + 1/s - 1)."""
    expected = torch.tensor([1, 0.9037, 0.7897, 0.6525, 0.4842, 0.2730, 0])
    torch.testing.assert_close(shifted_sigmas(flux_dev_scheduler(), 6, 1024), expected, atol=5e-5, rtol=0)


def test_a_shift_of_three_does_not_depend_on_the_image() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=math.log(3), max_shift=math.log(3)
    )
    s = torch.linspace(1, 0.25, 4)
    expected = torch.cat((3 * s / (1 + 2 * s), torch.zeros(1)))
    for tokens in (16, 1024):
        torch.testing.assert_close(shifted_sigmas(scheduler, 4, tokens), expected)


def test_the_given_scheduler_keeps_its_own_run() -> None:
    scheduler = flux_dev_scheduler()
    scheduler.set_timesteps(sigmas=[1.0, 0.5], mu=0.6)
    before = torch.as_tensor(scheduler.sigmas).clone()
    shifted_sigmas(scheduler, 6, 1024)
    assert torch.equal(torch.as_tensor(scheduler.sigmas), before)


def test_no_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        shifted_sigmas(flux_dev_scheduler(), 0, 16)

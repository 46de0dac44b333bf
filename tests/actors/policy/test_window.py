from __future__ import annotations

from typing import Literal

import pytest

from actors.policy.plan import SamplingPlan
from conf.policy import PolicySettings, SamplingSettings


def windows(position: Literal["first", "sliding", "random"], seed: int = 0) -> list[tuple[int, ...]]:
    """The trained steps of 15 iterations: five noisy steps, a window of two."""
    settings = PolicySettings(
        seed=seed,
        sampling=SamplingSettings(denoise_steps=6, window=2, window_position=position, window_stride=3),
    )
    plans = [SamplingPlan.for_training(settings, iteration) for iteration in range(15)]
    assert all(plan.noise_steps == plan.train_steps for plan in plans)
    return [plan.train_steps for plan in plans]


def test_a_first_window_stays() -> None:
    assert set(windows("first")) == {(0, 1)}


def test_a_sliding_window_moves_every_stride_and_starts_over() -> None:
    assert windows("sliding")[::3] == [(0, 1), (1, 2), (2, 3), (3, 4), (0, 1)]
    assert windows("sliding")[0] == windows("sliding")[2]


def test_a_random_window_depends_on_the_seed_and_the_iteration() -> None:
    assert set(windows("random")) == {(0, 1), (1, 2), (2, 3), (3, 4)}
    assert windows("random") == windows("random")
    assert windows("random") != windows("random", seed=1)


def test_windows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"policy\.sampling\.window must lie between 0 and the 5 noisy steps, got 6"):
        PolicySettings(sampling=SamplingSettings(window=6))
    with pytest.raises(
        ValueError, match=r"policy\.sampling\.train_steps must lie between 0 and the 5 noisy steps, got 6"
    ):
        PolicySettings(sampling=SamplingSettings(window=0, train_steps=6))

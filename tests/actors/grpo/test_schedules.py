"""The learning rate and the moving average over a run's iterations."""

from __future__ import annotations

import pytest
import torch

from actors.grpo.ema import MovingAverage
from actors.grpo.lr_schedule import learning_rate
from conf.policy import PolicyOptimizerSettings


def test_the_learning_rate_decays_linearly() -> None:
    settings = PolicyOptimizerSettings(lr=1.0 - 1e-9, final_lr_fraction=0.2, warmup_iterations=1)
    rates = [learning_rate(settings, iteration, iterations=4) for iteration in range(6)]
    assert rates == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2])


def test_the_learning_rate_warms_up_linearly() -> None:
    settings = PolicyOptimizerSettings(lr=1.0 - 1e-9, final_lr_fraction=0.2, warmup_iterations=4)
    assert learning_rate(settings, 0, iterations=4) == pytest.approx(1 / 4)
    assert learning_rate(settings, 1, iterations=4) == pytest.approx(2 / 4 * 0.8)
    constant = PolicyOptimizerSettings(lr=1.0 - 1e-9, final_lr_fraction=1.0, warmup_iterations=4)
    rates = [learning_rate(constant, iteration, iterations=100) for iteration in (2, 3, 4, 50)]
    assert rates == pytest.approx([0.75, 1.0, 1.0, 1.0])


def test_the_moving_average() -> None:
    """Version 6: d = 7 / 16. Late versions: d is `decay`."""
    lora = {"a": torch.ones(2)}
    ema = MovingAverage(lora, decay=0.95)
    lora["a"] += 1.0
    torch.testing.assert_close(ema.weights["a"], torch.ones(2))  # a copy
    ema.update(lora, version=6)
    torch.testing.assert_close(ema.weights["a"], torch.full((2,), 1 * 7 / 16 + 2 * 9 / 16))
    before = ema.weights["a"].clone()
    ema.update({"a": torch.zeros(2)}, version=10_000)
    torch.testing.assert_close(ema.weights["a"], 0.95 * before)

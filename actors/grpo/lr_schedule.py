"""The learning rate of an iteration: linear warm-up and linear decay."""

from __future__ import annotations

from conf.policy import PolicyOptimizerSettings


def learning_rate(settings: PolicyOptimizerSettings, iteration: int, iterations: int) -> float:
    """The learning rate of one iteration.

    lr * (1 - (1 - final_lr_fraction) * iteration / iterations) * min(1, (iteration + 1) / warmup_iterations)

    The length of Adam's first steps is the learning rate, however small the gradient is. Without a warm-up they would
    change the base model too much.
    """
    done = min(iteration / iterations, 1.0)
    warmup = min((iteration + 1) / settings.warmup_iterations, 1.0)
    return warmup * settings.lr * (1 - (1 - settings.final_lr_fraction) * done)

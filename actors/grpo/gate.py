"""The on-policy gate: before the first optimizer step, the learner must reproduce the sampler's log-probabilities."""

from __future__ import annotations

import math

import torch


class OffPolicyError(RuntimeError):
    """Before the first optimizer step the learner did not reproduce the sampler's log-probabilities."""


class OnPolicyGate:
    """Measures how far the ratios of unchanged weights are from 1, and checks this once.

    If sampler and learner disagree (another model, dtype or code path), each ratio is wrong by that amount, and with a
    clip range of 1e-4 the run would learn nothing. Axes: T denoise steps, R rows of a batch.
    """

    def __init__(self, tolerance: float, denoise_steps: int, device: torch.device) -> None:
        """`tolerance` is `policy.algorithm.ratio_tolerance`: the largest |ratio - 1| that passes."""
        self.tolerance = tolerance
        self.passed = False
        self._drift = torch.zeros(denoise_steps, device=device)  # [T] max |ratio - 1| of the current optimizer step
        self._rows = 0

    def record(self, ratio: torch.Tensor, denoise_step: torch.Tensor) -> None:
        """Adds ratios [R], at these denoise steps [R], of samples drawn by the very weights that replay them."""
        self._drift.scatter_reduce_(0, denoise_step, (ratio - 1).abs(), "amax")
        self._rows += len(ratio)

    def check(self) -> float:
        """The largest |ratio - 1| that was recorded since `reset`. NaN without rows.

        The first time that there are rows, raises OffPolicyError if it exceeds the tolerance; names the denoise step.
        """
        if not self._rows:
            return math.nan
        worst = int(self._drift.argmax())
        drift = float(self._drift[worst])
        if not self.passed and not drift <= self.tolerance:
            raise OffPolicyError(
                f"on-policy gate: |ratio - 1| must be at most policy.algorithm.ratio_tolerance={self.tolerance} before "
                f"the first optimizer step, got {drift:.3g} at denoise step {worst}: sampler and learner disagree. Use "
                "the same model, dtype and flux.* settings for both. With policy.learner.replay_batch=0 the learner's "
                "forward passes have the same batch shape as the sampler's"
            )
        self.passed = True
        return drift

    def reset(self) -> None:
        """Starts the next optimizer step."""
        self._drift.zero_()
        self._rows = 0

"""The on-policy gate: before the first optimizer step, the learner must reproduce the sampler's log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

ROUNDING = 10.0
"""A drift of up to this many noise floors counts as rounding in the gate's error."""


class OffPolicyError(RuntimeError):
    """Before the first optimizer step the learner did not reproduce the sampler's log-probabilities."""


class OnPolicyGate:
    """Measures how far the ratios of unchanged weights are from 1, and checks this once.

    If sampler and learner disagree (another model, dtype or code path), each ratio is wrong by that amount, and with a
    clip range of 1e-4 the run would learn nothing. Axes: T denoise steps, R rows of a batch.
    """

    def __init__(self, tolerance: float, denoise_steps: int, device: torch.device) -> None:
        """`tolerance`: the largest |ratio - 1| that passes. Infinity: each number passes, but not NaN."""
        self.tolerance = tolerance
        self.passed = False
        self._drift = torch.full((denoise_steps,), -1.0, device=device)  # [T] max |ratio - 1|; -1: no row
        self._rows = 0

    def record(self, ratio: torch.Tensor, denoise_step: torch.Tensor) -> None:
        """Adds ratios [R], at these denoise steps [R], of samples drawn by the very weights that replay them."""
        self._drift.scatter_reduce_(0, denoise_step, (ratio - 1).abs(), "amax")
        self._rows += len(ratio)

    def check(self, noise_floor: Callable[[], float] = lambda: math.nan) -> float:
        """The largest |ratio - 1| that was recorded since `reset`. NaN without rows.

        The first time that there are rows, raises OffPolicyError if it exceeds the tolerance. The error names the drift
        of each denoise step, and the |ratio - 1| that rounding alone causes, which `noise_floor` measures (NaN: not
        known).
        """
        if not self._rows:
            return math.nan
        drift = float(self._drift.max())
        if not self.passed and not drift <= self.tolerance:
            raise OffPolicyError(_error(self._drift.tolist(), int(self._drift.argmax()), self.tolerance, noise_floor()))
        self.passed = True
        return drift

    def reset(self) -> None:
        """Starts the next optimizer step."""
        self._drift.fill_(-1.0)
        self._rows = 0


def _error(drift: Sequence[float], worst: int, tolerance: float, noise_floor: float) -> str:
    steps = ", ".join(f"step {step}: {value:.2g}" for step, value in enumerate(drift) if not value < 0)
    floor = "was not measured"
    if not math.isnan(noise_floor):
        floor = f"is {noise_floor:.2g} (the same rows, replayed in a forward pass of another size)"
    is_rounding = drift[worst] <= ROUNDING * noise_floor  # false for NaN
    models = "use the same model, dtype and flux.* settings for sampler and learner"
    fixes = [
        "policy.learner.replay_batch=0, so that both make forward passes of one size",
        "policy.algorithm.old_log_probs=learner, which needs no agreement",
        f"policy.algorithm.ratio_tolerance above {drift[worst]:.2g}, if that is well below policy.algorithm.clip_range",
    ]
    return (
        f"on-policy gate: |ratio - 1| must be at most policy.algorithm.ratio_tolerance={tolerance} before the first "
        f"optimizer step, got {drift[worst]:.3g} at denoise step {worst} ({steps}). What rounding alone causes "
        f"{floor}, so this is {'rounding' if is_rounding else 'probably more than rounding'}. Fixes, in this order: "
        f"{'; '.join(fixes if is_rounding else [models, *fixes])}"
    )

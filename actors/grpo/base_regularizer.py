"""Rows at the noise levels that no log-probability ever trains, where the learner holds the policy to its base.

All steps share the LoRA, so what is learned at the trained ones moves the others too. The policy gradient does not see
what that does to the reward: a step that draws no noise has no log-prob to blame. What drifts there adds up, and in the
end undoes what was learned: docs/experiments.md has the measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from actors.types import Conditioning, Trajectory


@dataclass(frozen=True)
class RegularizerRow:
    """A latent on one sample's way from the last trained step to its image."""

    x: torch.Tensor  # [S, C]
    s: torch.Tensor  # [] its noise level
    conditioning: Conditioning
    weight: float  # 1 / number of the group's rows


def regularizer_rows(
    trajectories: Sequence[Trajectory], conditioning: Conditioning, tail: int, samples: int
) -> list[RegularizerRow]:
    """One row for `samples` of a group's kept trajectories, spread evenly over them, at steps `tail` .. T-1.

    Each stands at a random place of a random step: x + u (x_next - x) at s + u (s_next - s), which an ODE step passes
    through. Drawn from the trajectory's seed, so that who learns it, and when, does not matter. Without such steps, or
    trajectories, there are no rows.
    """
    if not trajectories or tail >= len(trajectories[0].log_probs):
        return []
    count = min(samples, len(trajectories))
    rows = []
    for index in range(count):
        trajectory = trajectories[index * len(trajectories) // count]
        generator = torch.Generator().manual_seed(trajectory.seed)
        step = int(torch.randint(tail, len(trajectory.log_probs), (), generator=generator))
        u = torch.rand((), generator=generator)
        x, s = trajectory.latents, trajectory.sigmas
        rows.append(RegularizerRow(x[step].lerp(x[step + 1], u), s[step].lerp(s[step + 1], u), conditioning, 1 / count))
    return rows

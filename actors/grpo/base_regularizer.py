"""Extension `policy.algorithm.base_regularizer_weight`: keeps the policy near its base at steps that are never trained.

All denoise steps share the LoRA, so training some steps changes the others too. The policy gradient does not see how
this changes the reward: a step without noise has no log-probability. The change accumulates over a long run and in the
end undoes what was learned; docs/notes/experiments.md has the measurement.
Axes: N kept samples of a group, T denoise steps, S image tokens, C packed latent channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from actors.grpo.loss import velocity_distance
from actors.grpo.passes import Passes
from actors.policy.base import Policy
from actors.policy.plan import first_untrained_step
from actors.types import Conditioning, Trajectory
from conf.policy import PolicySettings


@dataclass(frozen=True)
class RegularizerRow:
    """A latent on the path of one sample from the last trained step to its image."""

    x: torch.Tensor  # [S, C]
    s: torch.Tensor  # [] its noise level
    conditioning: Conditioning
    weight: float  # 1 / number of the group's rows


def regularizer_rows(
    trajectories: Sequence[Trajectory], conditioning: Conditioning, first_step: int, samples: int
) -> list[RegularizerRow]:
    """One row for each of `samples` kept trajectories, evenly spaced among them, at steps `first_step` .. T-1.

    Each row is at a random position of a random step: x + u (x_next - x) at s + u (s_next - s), which is on the path of
    an ODE step. The seed of the draw is the trajectory's, so the rows do not depend on the rank or on the time. Returns
    no rows if there are no such steps, or no trajectories.
    """
    if not trajectories or first_step >= len(trajectories[0].log_probs):
        return []
    count = min(samples, len(trajectories))
    rows: list[RegularizerRow] = []
    for index in range(count):
        trajectory = trajectories[index * len(trajectories) // count]
        generator = torch.Generator().manual_seed(trajectory.seed)
        step = int(torch.randint(first_step, len(trajectory.log_probs), (), generator=generator))
        u = torch.rand((), generator=generator)
        x, s = trajectory.latents, trajectory.sigmas
        rows.append(RegularizerRow(x[step].lerp(x[step + 1], u), s[step].lerp(s[step + 1], u), conditioning, 1 / count))
    return rows


class BaseRegularizer:
    """Adds the gradient of weight * mean (v - v_base)^2 to an optimizer step.

    It is added after the batch's std has divided the policy gradient, so its weight does not depend on that std.
    """

    def __init__(self, policy: Policy, settings: PolicySettings, local_groups_per_step: float) -> None:
        """`local_groups_per_step`: this rank's groups of an optimizer step; the term is a mean over them."""
        self.policy = policy
        self.weight = settings.algorithm.base_regularizer_weight
        self.samples = settings.algorithm.base_regularizer_samples
        self.first_step = first_untrained_step(settings)
        self.batch = settings.learner.replay_batch or settings.sampling.batch or settings.group_size
        self.local_groups_per_step = local_groups_per_step
        self.reset()

    def reset(self) -> None:
        """Starts the next optimizer step."""
        self._rows: list[RegularizerRow] = []
        self._distance_sum = torch.zeros((), device=self.policy.device)

    @property
    def rows(self) -> int:
        """Rows of the current optimizer step."""
        return len(self._rows)

    @property
    def distance(self) -> float:
        """Mean (v - v_base)^2 over the rows of the current optimizer step; 0 without rows."""
        return float(self._distance_sum) / max(self.rows, 1)

    def add_group(self, trajectories: Sequence[Trajectory], conditioning: Conditioning) -> None:
        """Takes the rows of one group's kept trajectories."""
        self._rows += regularizer_rows(trajectories, conditioning, self.first_step, self.samples)

    def backward(self, passes: Passes) -> None:
        """Adds the gradient of all rows, in forward passes of the replay's size."""
        for first in range(0, self.rows, self.batch):
            chunk = self._rows[first : first + self.batch]
            passes.add([partial(self._pass, chunk)], chunk[0].conditioning)
        passes.finish(frozen_forwards=1)

    def _pass(self, rows: Sequence[RegularizerRow]) -> None:
        device = self.policy.device
        x, s = torch.stack([row.x for row in rows]).to(device), torch.stack([row.s for row in rows]).to(device)
        conditioning = self.policy.batch_conditioning([row.conditioning for row in rows])
        velocity = self.policy.velocity(x, s, conditioning)
        with torch.no_grad(), self.policy.reference():
            base = self.policy.velocity(x, s, conditioning)
        distance = velocity_distance(velocity, base)
        share = torch.tensor([row.weight for row in rows], device=device) / self.local_groups_per_step
        (self.weight * distance * share).sum().backward()
        self._distance_sum += distance.detach().sum()

"""Kept trajectories cut into batches of (sample, denoise step) pairs, which the learner replays.

Axes: N kept samples of a group, K trained denoise steps, R rows of a batch, S image tokens, C packed latent channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch

from actors.policy.base import Policy
from actors.types import Conditioning, Trajectory


@dataclass(frozen=True)
class ReplayBatch:
    """R (sample, denoise step) pairs of one group, for one forward pass. Pairs of one denoise step are adjacent."""

    x: torch.Tensor  # [R, S, C] latents at which the denoise steps started
    s: torch.Tensor  # [R] their noise levels
    x_next: torch.Tensor  # [R, S, C] latents that the sampler drew
    s_next: torch.Tensor  # [R]
    log_prob: torch.Tensor  # [R] of x_next, as computed by the sampler
    mean: torch.Tensor | None  # [R, S, C] of the Gaussian from which x_next was drawn; None if it was not kept
    advantage: torch.Tensor  # [R]
    weight: torch.Tensor  # [R] 1 / (N K)
    denoise_step: torch.Tensor  # [R] int64
    padding: int  # extra rows of the forward pass, so that it has the same batch shape as the sampler's

    def to(self, device: torch.device) -> Self:
        """The same batch on `device`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{k: v.to(device) for k, v in values.items() if isinstance(v, torch.Tensor)})

    @property
    def forward_rows(self) -> int:
        """Rows of the forward pass, with padding."""
        return len(self.s) + self.padding

    def velocity(self, policy: Policy, conditioning: Conditioning) -> torch.Tensor:
        """The velocity that the policy predicts at each row: [R, S, C]."""
        return padded_velocity(policy, self.x, self.s, conditioning, self.padding)


def padded_velocity(
    policy: Policy, x: torch.Tensor, s: torch.Tensor, conditioning: Conditioning, padding: int
) -> torch.Tensor:
    """The velocity at x [R, S, C] and s [R], from one forward pass of R + `padding` rows: [R, S, C].

    The extra rows are copies of the last one. They are cut off, so they have no gradient.
    """
    if padding:
        x = torch.cat((x, x[-1:].expand(padding, -1, -1)))
        s = torch.cat((s, s[-1:].expand(padding)))
    return policy.velocity(x, s, policy.batch_conditioning([conditioning] * len(s)))[: len(s) - padding]


def replay_batches(
    trajectories: Sequence[Trajectory], advantages: Sequence[float], max_rows: int
) -> Iterator[ReplayBatch]:
    """Cuts the N K pairs of one group into batches of at most `max_rows`.

    `max_rows=0` takes the batch shape of the sampler, and pads the last batch to it. A forward pass of the same shape
    has the same rounding errors, so the ratio of the unchanged policy is then exactly 1.
    """
    if not trajectories:
        return
    pairs = [(n, step) for step in trajectories[0].train_steps for n in range(len(trajectories))]
    rows = max_rows or trajectories[0].batch_size
    for first in range(0, len(pairs), rows):
        chunk = pairs[first : first + rows]
        yield make_batch(chunk, trajectories, advantages, padding=0 if max_rows else rows - len(chunk))


def make_batch(
    pairs: Sequence[tuple[int, int]], trajectories: Sequence[Trajectory], advantages: Sequence[float], padding: int
) -> ReplayBatch:
    """The batch of these pairs: (index into `trajectories`, denoise step)."""
    rows = [(trajectories[n], step) for n, step in pairs]
    means = [row.means[row.train_steps.index(step)] for row, step in rows if row.means is not None]
    return ReplayBatch(
        x=torch.stack([row.latents[step] for row, step in rows]),
        s=torch.stack([row.sigmas[step] for row, step in rows]),
        x_next=torch.stack([row.latents[step + 1] for row, step in rows]),
        s_next=torch.stack([row.sigmas[step + 1] for row, step in rows]),
        log_prob=torch.stack([row.log_probs[step] for row, step in rows]),
        mean=torch.stack(means) if means else None,
        advantage=torch.tensor([advantages[n] for n, _ in pairs], dtype=torch.float32),
        weight=torch.full((len(pairs),), 1.0 / (len(trajectories) * len(trajectories[0].train_steps))),
        denoise_step=torch.tensor([step for _, step in pairs]),
        padding=padding,
    )

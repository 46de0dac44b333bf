"""Extension `policy.sampling.shared_initial_noise`: latents that a whole group shares are replayed once.

The images of a group are at the same latent until the first noisy step has drawn its noise. There one velocity serves
all N rows, in the learner as in the sampler (actors/policy/shared_noise.py). Axes as in actors/grpo/replay.py, and
D distinct latents of a batch, D <= R.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from actors.grpo.replay import ReplayBatch, make_batch, padded_velocity
from actors.policy.base import Policy
from actors.types import Conditioning, Trajectory


@dataclass(frozen=True)
class SharedReplayBatch(ReplayBatch):
    """A batch whose forward pass has one row for each of its D distinct latents."""

    repeats: tuple[int, ...]  # D numbers: this many consecutive rows start at the same latent

    @property
    def forward_rows(self) -> int:
        """See ReplayBatch: D rows, with padding."""
        return len(self.repeats) + self.padding

    def velocity(self, policy: Policy, conditioning: Conditioning) -> torch.Tensor:
        """See ReplayBatch.

        Repeats by expanding, not by indexing: the gradient of an expansion is a plain sum, whose order is the same on
        every device and for every number of threads.
        """
        first_rows = [0, *accumulate(self.repeats[:-1])]
        velocity = padded_velocity(policy, self.x[first_rows], self.s[first_rows], conditioning, self.padding)
        return torch.cat([v.expand(n, -1, -1) for v, n in zip(velocity.split(1), self.repeats, strict=True)])


def shared_replay_batches(
    trajectories: Sequence[Trajectory], advantages: Sequence[float], max_rows: int
) -> Iterator[ReplayBatch]:
    """See `replay_batches`; `max_rows` bounds the distinct latents of a batch.

    With `max_rows=0` a shared latent is replayed alone, because that is the batch shape in which it was sampled.
    """
    if not trajectories:
        return
    first, samples = trajectories[0], range(len(trajectories))
    shared_steps = [step for step in first.train_steps if step < first.shared_prefix]
    other_steps = first.train_steps[len(shared_steps) :]
    shared = [[(n, step) for n in samples] for step in shared_steps]  # the pairs of each shared latent
    others = [[(n, step)] for step in other_steps for n in samples]
    if max_rows:
        chunks = _cut(shared + others, max_rows)
    else:
        chunks = [[latent] for latent in shared] + _cut(others, first.batch_size)
    for number, chunk in enumerate(chunks):
        alone = max_rows or number < len(shared)
        batch = make_batch(
            [pair for latent in chunk for pair in latent],
            trajectories,
            advantages,
            padding=0 if alone else first.batch_size - len(chunk),
        )
        yield SharedReplayBatch(**vars(batch), repeats=tuple(len(latent) for latent in chunk))


def _cut(latents: list[list[tuple[int, int]]], size: int) -> list[list[list[tuple[int, int]]]]:
    return [latents[first : first + size] for first in range(0, len(latents), size)]

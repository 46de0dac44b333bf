"""Kept trajectories cut into rows of (sample, step), the learner's unit of work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch

from actors.types import Trajectory


@dataclass(frozen=True)
class ReplayBatch:
    """R pairs of one forward over D latents. Step-major: neighbours stand at the same noise level.

    Samples that began with one noise stand at the same latent when they first draw noise, and part only with that
    draw: one velocity serves all their rows there, and D is smaller than R.
    """

    x: torch.Tensor  # [D, S, C] latents that steps started from
    s: torch.Tensor  # [D] their noise levels
    x_next: torch.Tensor  # [R, S, C] latent it drew
    s_next: torch.Tensor  # [R]
    log_prob: torch.Tensor  # [R] as the sampler computed it
    mean: torch.Tensor  # [R, S, C] of the Gaussian that the sampler drew from; [R, 0] where it kept none
    advantage: torch.Tensor  # [R]
    weight: torch.Tensor  # [R] 1 / (N K)
    denoise_step: torch.Tensor  # [R] int64, which denoise step
    repeats: tuple[int, ...]  # D numbers: so many rows, one after the other, are steps from that latent

    def to(self, device: torch.device) -> ReplayBatch:
        """The same rows on `device`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in values.items() if name != "repeats"})

    def repeat_rows(self, values: torch.Tensor) -> torch.Tensor:
        """What the D latents have, [D, ...], for each row: [R, ...].

        By expanding, not by indexing: its gradient is a plain sum, in one order on every device and number of threads.
        """
        parts = zip(values.split(1), self.repeats, strict=True)
        return torch.cat([part.expand(count, *part.shape[1:]) for part, count in parts])


@dataclass(frozen=True)
class _Start:
    """A latent that a step started from, and the samples that stood there."""

    step: int
    samples: Sequence[int]


def replay_batches(trajectories: Sequence[Trajectory], advantages: Sequence[float], rows: int) -> Iterator[ReplayBatch]:
    """Cuts the N x K pairs of one group into forwards over at most `rows` latents.

    `rows` 0 takes the sampler's own batch shape: a latent that all share goes alone, and the last forward of the
    others is filled up with latents that no row is of, so that the learner's forwards have exactly the sampler's shape.
    """
    if not trajectories:
        return
    size, numbers = trajectories[0].batch_size, range(len(trajectories))
    shared = [_Start(step, numbers) for step in trajectories[0].train_steps if step < trajectories[0].shared_prefix]
    own = [_Start(step, (n,)) for step in trajectories[0].train_steps[len(shared) :] for n in numbers]
    if rows:
        forwards = _cut(shared + own, rows)
    else:
        forwards = [[start] for start in shared] + [
            chunk + [_Start(chunk[0].step, ())] * (size - len(chunk)) for chunk in _cut(own, size)
        ]
    for starts in forwards:
        yield _batch_of(starts, trajectories, advantages)


def _cut(starts: Sequence[_Start], size: int) -> list[list[_Start]]:
    return [list(starts[first : first + size]) for first in range(0, len(starts), size)]


def _batch_of(starts: Sequence[_Start], trajectories: Sequence[Trajectory], advantages: Sequence[float]) -> ReplayBatch:
    standing = [trajectories[start.samples[0] if start.samples else 0] for start in starts]
    taken = [(n, start.step) for start in starts for n in start.samples]
    pairs = [(trajectories[n], step) for n, step in taken]
    weight = 1.0 / (len(trajectories) * len(trajectories[0].train_steps))
    return ReplayBatch(
        x=torch.stack([row.latents[start.step] for row, start in zip(standing, starts, strict=True)]),
        s=torch.stack([row.sigmas[start.step] for row, start in zip(standing, starts, strict=True)]),
        x_next=torch.stack([row.latents[step + 1] for row, step in pairs]),
        s_next=torch.stack([row.sigmas[step + 1] for row, step in pairs]),
        log_prob=torch.stack([row.log_probs[step] for row, step in pairs]),
        mean=torch.stack([_mean(row, step) for row, step in pairs]),
        advantage=torch.tensor([advantages[n] for n, _ in taken], dtype=torch.float32),
        weight=torch.full((len(pairs),), weight),
        denoise_step=torch.tensor([step for _, step in pairs]),
        repeats=tuple(len(start.samples) for start in starts),
    )


def _mean(trajectory: Trajectory, step: int) -> torch.Tensor:
    return torch.empty(0) if trajectory.means is None else trajectory.means[trajectory.train_steps.index(step)]

"""Kept images with fresh noise, which the NFT learner trains on: the forward process from final latents.

Axes: N kept images of a group, R rows = (image, noise level) pairs of one forward pass, S image tokens, C packed
latent channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch

from actors.types import Trajectory

SCHEDULE_POINTS = 1000
"""Noise levels among which a row's is drawn: those of a sampler with this many denoise steps."""


@dataclass(frozen=True)
class NoisedRows:
    """R (image, noise level) pairs of one group, for one forward pass."""

    x: torch.Tensor  # [R, S, C] latents with noise, (1 - s) x0 + s eps
    s: torch.Tensor  # [R] their noise levels, in (0, 1]
    target: torch.Tensor  # [R, S, C] the velocity eps - x0
    advantage: torch.Tensor  # [R]

    def to(self, device: torch.device) -> Self:
        """The same rows on `device`."""
        return replace(self, **{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def noised_rows(
    ends: Sequence[Trajectory],
    advantages: Sequence[float],
    schedule: torch.Tensor,
    noise_levels: int,
    max_rows: int,
) -> Iterator[NoisedRows]:
    """Gives each of the N images `noise_levels` rows, one in each equal part of the schedule, in batches of `max_rows`.

    `schedule` is the falling noise levels of a fine sampler, without the last one, 0: the rows then have the noise
    levels at which the policy is asked when it samples. Noise and levels are drawn from the image's seed, so they do
    not depend on the rank or the time; they differ from the noise that the image was made from. `max_rows=0`: all rows
    in one batch.
    """
    drawn = [_rows_of(end, value, schedule, noise_levels) for end, value in zip(ends, advantages, strict=True)]
    rows = [image[level] for level in range(noise_levels) for image in drawn]
    size = max_rows or len(rows)
    for first in range(0, len(rows), size):
        chunk = rows[first : first + size]
        yield NoisedRows(*(torch.stack(part) for part in zip(*chunk, strict=True)))


Row = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""x [S, C], s [], target [S, C] and advantage [] of one row."""


def _rows_of(end: Trajectory, advantage: float, schedule: torch.Tensor, noise_levels: int) -> list[Row]:
    generator = torch.Generator().manual_seed(end.seed + 1)  # another stream than that of the image's own noise
    clean = end.latents[-1]  # [S, C]
    rows: list[Row] = []
    for level in range(noise_levels):
        place = (level + float(torch.rand((), generator=generator))) / noise_levels
        s = schedule[min(int(place * len(schedule)), len(schedule) - 1)]
        noise = torch.randn(clean.shape, generator=generator)
        rows.append(((1 - s) * clean + s * noise, s, noise - clean, torch.tensor(advantage)))
    return rows

"""Kept trajectories cut into rows of (sample, step), the learner's unit of work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch

from actors.records import Trajectory


@dataclass(frozen=True)
class ReplayRows:
    """R pairs of one forward. Step-major: neighbouring rows stand at the same noise level."""

    x: torch.Tensor  # [R, S, C] latent the step started from
    x_next: torch.Tensor  # [R, S, C] latent it drew
    s: torch.Tensor  # [R]
    s_next: torch.Tensor  # [R]
    log_prob: torch.Tensor  # [R] as the sampler computed it
    mean: torch.Tensor  # [R, S, C] of the Gaussian that the sampler drew from; [R, 0] where it kept none
    advantage: torch.Tensor  # [R]
    weight: torch.Tensor  # [R] 1 / (N K); 0 for a row that only fills up the shape
    step: torch.Tensor  # [R] int64, which denoise step

    def to(self, device: torch.device) -> ReplayRows:
        """The same rows on `device`."""
        return ReplayRows(*(getattr(self, field.name).to(device) for field in fields(self)))


def replay_rows(trajectories: Sequence[Trajectory], advantages: Sequence[float], rows: int) -> Iterator[ReplayRows]:
    """Cuts the N x K pairs of one group into forwards of at most `rows` rows.

    `rows` 0 takes the sampler's own batch shape and fills the last forward up to it with rows of weight 0, so that
    the learner's forwards have exactly the sampler's shape.
    """
    trained = trajectories[0].trained if trajectories else ()
    pairs = [(sample, step) for step in trained for sample in range(len(trajectories))]
    weight = 1.0 / max(len(pairs), 1)
    size = rows or (trajectories[0].batch_rows if trajectories else 1)
    for start in range(0, len(pairs), size):
        chunk = pairs[start : start + size]
        filling = 0 if rows else size - len(chunk)
        weights = [weight] * len(chunk) + [0.0] * filling
        chunk = chunk + chunk[:1] * filling
        of = [trajectories[sample] for sample, _ in chunk]
        steps = [step for _, step in chunk]
        yield ReplayRows(
            x=torch.stack([row.latents[step] for row, step in zip(of, steps, strict=True)]),
            x_next=torch.stack([row.latents[step + 1] for row, step in zip(of, steps, strict=True)]),
            s=torch.stack([row.sigmas[step] for row, step in zip(of, steps, strict=True)]),
            s_next=torch.stack([row.sigmas[step + 1] for row, step in zip(of, steps, strict=True)]),
            log_prob=torch.stack([row.log_probs[step] for row, step in zip(of, steps, strict=True)]),
            mean=torch.stack([_mean(row, step) for row, step in zip(of, steps, strict=True)]),
            advantage=torch.tensor([advantages[sample] for sample, _ in chunk], dtype=torch.float32),
            weight=torch.tensor(weights),
            step=torch.tensor(steps),
        )


def _mean(trajectory: Trajectory, step: int) -> torch.Tensor:
    return torch.empty(0) if trajectory.means is None else trajectory.means[trajectory.trained.index(step)]

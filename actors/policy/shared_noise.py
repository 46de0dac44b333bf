"""Extension `policy.sampling.shared_initial_noise`: all images of a group start from the same noise.

As in DanceGRPO (arXiv 2505.07818). The images are equal until the first noisy step has drawn its noise. Therefore the
velocities up to and including that step are computed once for all of them, with a batch of one row.
Axes: B images, S image tokens, C packed latent channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from actors.policy.base import Policy
from actors.policy.plan import SamplingPlan
from actors.policy.transition import euler
from actors.types import Conditioning


@dataclass(frozen=True)
class SharedPrefix:
    """The first denoise steps of images with the same initial noise, up to and including the first noisy step."""

    initial_noise: torch.Tensor  # [B, S, C]; B = 1 until `stack`
    velocities: tuple[torch.Tensor, ...]  # one [B, S, C] for each step

    @property
    def steps(self) -> int:
        """The number of denoise steps whose velocity is shared."""
        return len(self.velocities)

    def velocity(self, step: int) -> torch.Tensor:
        """The policy's velocity at the shared latent of this step, repeated for each image: [B, S, C]."""
        return self.velocities[step]

    @staticmethod
    def stack(prefixes: Sequence[SharedPrefix]) -> SharedPrefix:
        """The prefixes of B images in one batch."""
        return SharedPrefix(
            torch.cat([prefix.initial_noise for prefix in prefixes]),
            tuple(torch.cat(step) for step in zip(*(prefix.velocities for prefix in prefixes), strict=True)),
        )


def shared_prefixes(
    policy: Policy,
    conditioning: Sequence[Conditioning],
    seeds: Sequence[int],
    plan: SamplingPlan,
    noise_seed: int | None = None,
) -> list[SharedPrefix]:
    """The prefix of each image: `plan.images_per_noise` consecutive images start with the noise of the first of them.

    With `noise_seed` all images are part of one group, and start with the noise of this seed.

    Raises ValueError if the images do not form complete groups, or if a group has more than one conditioning.
    """
    size = plan.images_per_noise if noise_seed is None else len(seeds)
    if len(seeds) % size:
        raise ValueError(f"{size} images share an initial noise: sample them in multiples of that, got {len(seeds)}")
    prefixes: list[SharedPrefix] = []
    for first in range(0, len(seeds), size):
        shared = conditioning[first]
        if any(other is not shared for other in conditioning[first : first + size]):
            raise ValueError("images that share their initial noise are of one prompt: pass one conditioning for all")
        seed = seeds[first] if noise_seed is None else noise_seed
        prefixes += [_sample_prefix(policy, shared, seed, plan)] * size
    return prefixes


@torch.inference_mode()
def _sample_prefix(policy: Policy, conditioning: Conditioning, seed: int, plan: SamplingPlan) -> SharedPrefix:
    """Runs the steps up to the first noisy one once, from the noise of `seed`."""
    x = initial_noise = policy.initial_noise([torch.Generator().manual_seed(seed)])  # [1, S, C]
    rows = policy.batch_conditioning([conditioning])
    s = policy.sigmas(plan.denoise_steps).to(x.device)[:, None]  # [T+1, 1]
    velocities: list[torch.Tensor] = []
    for t in range(min(plan.noise_steps) + 1):
        velocities.append(policy.velocity(x, s[t], rows))
        x = euler(x, velocities[-1], s[t], s[t + 1])
    return SharedPrefix(initial_noise, tuple(velocities))

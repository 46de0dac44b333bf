"""Sampling as a function: (policy, conditioning, seeds, plan) -> latents and trajectories.

Axes: B images, T denoise steps, S image tokens, C packed latent channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from actors.policy.base import Policy
from actors.policy.plan import SamplingPlan
from actors.policy.transition import euler, transition_of
from actors.types import Conditioning, Trajectory


@dataclass(frozen=True)
class Samples:
    """What one call of `sample` made, on the CPU and in the order of its seeds."""

    latents: torch.Tensor  # [B, S, C] float32, ready to decode
    trajectories: tuple[Trajectory, ...]  # one a seed; empty where the plan draws no noise


def sample(
    policy: Policy,
    conditioning: Sequence[Conditioning],
    seeds: Sequence[int],
    plan: SamplingPlan,
    policy_version: int = 0,
) -> Samples:
    """Draws one image's latents a seed, each under its own conditioning.

    Each sample owns a CPU generator seeded by its seed: first its initial noise (as the plain pipeline draws it),
    then its step noises in order. Neither the device nor the samples that share the batch can change them; but images
    that share their initial noise begin with the first one's, and keep their own step noises.
    Raises ValueError unless there is one conditioning a seed, and one for all that share an initial noise.
    """
    if len(conditioning) != len(seeds):
        raise ValueError(f"one conditioning a seed, got {len(conditioning)} and {len(seeds)} seeds")
    begun = _shared_prefixes(policy, conditioning, seeds, plan)
    rows = plan.max_batch or len(seeds)
    chunks = [
        _sample_batch(
            policy, conditioning[i : i + rows], seeds[i : i + rows], plan, policy_version, begun[i : i + rows]
        )
        for i in range(0, len(seeds), rows)
    ]
    return Samples(
        torch.cat([chunk.latents for chunk in chunks]),
        tuple(trajectory for chunk in chunks for trajectory in chunk.trajectories),
    )


def sample_before_and_after(
    policy: Policy, conditioning: Sequence[Conditioning], seeds: Sequence[int], plan: SamplingPlan
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [B, H, W, 3] by the frozen base, and by the policy from the same noise."""
    with policy.base():
        before = policy.decode(sample(policy, conditioning, seeds, plan).latents)
    return before, policy.decode(sample(policy, conditioning, seeds, plan).latents)


@dataclass(frozen=True)
class SharedPrefix:
    """What images of one initial noise have in common: they part with what the first noisy step draws."""

    path: tuple[torch.Tensor, ...]  # [1, S, C] each, the latents up to that step
    velocity: torch.Tensor  # [1, S, C] there


def _shared_prefixes(
    policy: Policy, conditioning: Sequence[Conditioning], seeds: Sequence[int], plan: SamplingPlan
) -> list[SharedPrefix]:
    """One an image, made once for all that share it; none where each begins with a noise of its own."""
    size = plan.images_per_noise
    if size == 1:
        return []
    if len(seeds) % size:
        raise ValueError(f"{size} images share an initial noise: draw them in multiples of that, got {len(seeds)}")
    begun = []
    for first in range(0, len(seeds), size):
        common = conditioning[first]
        if any(other is not common for other in conditioning[first : first + size]):
            raise ValueError("images that share their initial noise are of one prompt: pass one conditioning for all")
        begun += [_sample_prefix(policy, common, seeds[first], plan)] * size
    return begun


@torch.inference_mode()
def _sample_prefix(policy: Policy, conditioning: Conditioning, seed: int, plan: SamplingPlan) -> SharedPrefix:
    """Takes the common way from one seed's noise once, whatever the number of images."""
    path = [policy.initial_noise([torch.Generator().manual_seed(seed)])]
    rows, schedule = (
        policy.batch_conditioning([conditioning]),
        policy.sigmas(plan.denoise_steps).to(path[0].device)[:, None],
    )  # [T+1, 1]
    for step in range(min(plan.noise_steps)):
        s, s_next = schedule[step], schedule[step + 1]
        path.append(euler(path[-1], policy.velocity(path[-1], s, rows), s, s_next))
    return SharedPrefix(tuple(path), policy.velocity(path[-1], schedule[min(plan.noise_steps)], rows))


@torch.inference_mode()
def _sample_batch(
    policy: Policy, conditioning: Sequence[Conditioning], seeds: Sequence[int], plan: SamplingPlan, version: int,
    begun: Sequence[SharedPrefix],
) -> Samples:  # fmt: skip
    """`begun`: how each image begins; empty where each does so with its own noise."""
    transition, log_prob = transition_of(plan.transition)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    x = policy.initial_noise(generators)  # [B, S, C]; drawn in any case, as the step noises come after it
    noise = _step_noise(generators, plan, x)  # [noisy, B, S, C]
    path = [torch.cat(step) for step in zip(*(one.path for one in begun), strict=True)] if begun else [x]
    first, x = len(path) - 1, path[-1]
    rows = policy.batch_conditioning(conditioning)
    sigmas = policy.sigmas(plan.denoise_steps)  # [T+1]
    schedule = sigmas.to(x.device)[:, None].expand(-1, len(seeds))  # [T+1, B]
    log_probs = torch.zeros(plan.denoise_steps, len(seeds), device=x.device)  # [T, B]
    means = []  # K of [B, S, C]
    for step in range(first, plan.denoise_steps):
        s, s_next = schedule[step], schedule[step + 1]
        v = torch.cat([one.velocity for one in begun]) if begun and step == first else policy.velocity(x, s, rows)
        if step in plan.noise_steps:
            drawn = transition(x, v, s, s_next, plan.noise_level)
            x = drawn.mean + drawn.std * noise[plan.noise_steps.index(step)]
            log_probs[step] = log_prob(x, drawn)
            if plan.keep_means and step in plan.train_steps:
                means.append(drawn.mean)
        else:
            x = euler(x, v, s, s_next)
        if plan.noise_steps:
            path.append(x)
    if not plan.noise_steps:
        return Samples(x.cpu(), ())
    latents = torch.stack(path, dim=1).cpu()  # [B, T+1, S, C]
    log_probs = log_probs.T.cpu()  # [B, T]
    kept = torch.stack(means, dim=1).cpu() if means else None  # [B, K, S, C]
    shared = first + 1 if begun else 0
    trajectories = tuple(
        Trajectory(
            latents[i].clone(), log_probs[i].clone(), sigmas, seed, len(seeds), shared, version, plan.train_steps,
            None if kept is None else kept[i].clone(),
        )
        for i, seed in enumerate(seeds)
    )  # fmt: skip
    return Samples(x.cpu(), trajectories)


def _step_noise(generators: Sequence[torch.Generator], plan: SamplingPlan, x: torch.Tensor) -> torch.Tensor:
    """All noise of all noisy steps, drawn and moved to the device at once: [noisy, B, S, C]."""
    shape = (len(plan.noise_steps), *x.shape[1:])
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators], dim=1).to(x.device)

"""Sampling as a function: (policy, conditioning, seeds, plan) -> latents and trajectories.

Axes: B images, T denoise steps, K trained denoise steps, S image tokens, C packed latent channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from actors.policy.base import Policy
from actors.policy.noise_check import check_noise
from actors.policy.plan import SamplingPlan
from actors.policy.shared_noise import SharedPrefix, shared_prefixes
from actors.policy.transition import euler, transition_of
from actors.types import Conditioning, Trajectory


@dataclass(frozen=True)
class Samples:
    """The result of one call of `sample`, on the CPU and in the order of its seeds."""

    latents: torch.Tensor  # [B, S, C] float32, ready to decode
    trajectories: tuple[Trajectory, ...]  # one for each seed; empty if the plan draws no noise and keeps no ends


def sample(
    policy: Policy,
    conditioning: Sequence[Conditioning],
    seeds: Sequence[int],
    plan: SamplingPlan,
    policy_version: int = 0,
    noise_seed: int | None = None,
    after_step: Callable[[], None] | None = None,
) -> Samples:
    """Samples the latents of one image for each seed and its conditioning, in forward passes of `plan.max_batch`.

    Each image has a CPU generator with its own seed. It draws first the initial noise (as the plain pipeline does),
    then the noise of the noisy steps in order. Therefore neither the device nor the other images of the batch change
    what an image draws. If `plan` shares the initial noise within a group, the images may be part of one group:
    `noise_seed` is then the seed of the group's first image. `after_step` is called after each denoise step of each
    forward pass; what it raises ends the sampling. Raises ValueError unless there is one conditioning for each seed.
    """
    if len(conditioning) != len(seeds):
        raise ValueError(f"one conditioning for each seed is needed, got {len(conditioning)} and {len(seeds)} seeds")
    prefixes = shared_prefixes(policy, conditioning, seeds, plan, noise_seed) if plan.images_per_noise > 1 else None
    size = plan.max_batch or len(seeds)
    chunks = [
        _sample_batch(
            policy,
            conditioning[i : i + size],
            seeds[i : i + size],
            plan,
            policy_version,
            SharedPrefix.stack(prefixes[i : i + size]) if prefixes else None,
            after_step,
        )
        for i in range(0, len(seeds), size)
    ]
    return Samples(
        torch.cat([chunk.latents for chunk in chunks]),
        tuple(trajectory for chunk in chunks for trajectory in chunk.trajectories),
    )


@torch.inference_mode()
def _sample_batch(
    policy: Policy,
    conditioning: Sequence[Conditioning],
    seeds: Sequence[int],
    plan: SamplingPlan,
    policy_version: int,
    prefix: SharedPrefix | None,
    after_step: Callable[[], None] | None,
) -> Samples:
    """Runs the T denoise steps for B images in one batch. `prefix`: the steps that are computed already, if any."""
    transition = transition_of(plan.transition)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    x = policy.initial_noise(generators)  # [B, S, C]
    noise = _step_noise(generators, plan, x)  # [noisy steps, B, S, C]
    x = prefix.initial_noise if prefix else x
    rows = policy.batch_conditioning(conditioning)
    sigmas = policy.sigmas(plan.denoise_steps)  # [T+1]
    check_noise(plan, sigmas)
    s = sigmas.to(x.device)[:, None].expand(-1, len(seeds))  # [T+1, B]
    latents, log_probs, means = [x], torch.zeros(plan.denoise_steps, len(seeds), device=x.device), []

    for t in range(plan.denoise_steps):
        v = prefix.velocity(t) if prefix and t < prefix.steps else policy.velocity(x, s[t], rows)
        if t in plan.noise_steps:
            gaussian = transition.step(x, v, s[t], s[t + 1], plan.noise_level)
            x = gaussian.mean + gaussian.std * noise[plan.noise_steps.index(t)]
            log_probs[t] = transition.log_prob(x, gaussian)
            if plan.keep_means and t in plan.train_steps:
                means.append(gaussian.mean)
        else:
            x = euler(x, v, s[t], s[t + 1])
        if plan.noise_steps:
            latents.append(x)
        if after_step:
            after_step()

    if plan.keep_ends:
        return Samples(x.cpu(), _ends(x.cpu(), seeds, policy_version))
    if not plan.noise_steps:
        return Samples(x.cpu(), ())
    all_latents = torch.stack(latents, dim=1).cpu()  # [B, T+1, S, C]
    all_log_probs = log_probs.T.cpu()  # [B, T]
    all_means = torch.stack(means, dim=1).cpu() if means else None  # [B, K, S, C]
    trajectories = tuple(
        Trajectory(
            latents=all_latents[i].clone(),
            log_probs=all_log_probs[i].clone(),
            sigmas=sigmas,
            seed=seed,
            batch_size=len(seeds),
            shared_prefix=prefix.steps if prefix else 0,
            policy_version=policy_version,
            train_steps=plan.train_steps,
            means=None if all_means is None else all_means[i].clone(),
        )
        for i, seed in enumerate(seeds)
    )
    return Samples(x.cpu(), trajectories)


def _ends(latents: torch.Tensor, seeds: Sequence[int], policy_version: int) -> tuple[Trajectory, ...]:
    """Trajectories without denoise steps: the final latents, all that a learner of the forward process needs."""
    return tuple(
        Trajectory(
            latents=latents[i : i + 1].clone(),
            log_probs=torch.zeros(0),
            sigmas=torch.zeros(1),
            seed=seed,
            batch_size=len(seeds),
            shared_prefix=0,
            policy_version=policy_version,
            train_steps=(),
            means=None,
        )
        for i, seed in enumerate(seeds)
    )


def _step_noise(generators: Sequence[torch.Generator], plan: SamplingPlan, x: torch.Tensor) -> torch.Tensor:
    """The noise of all noisy steps, drawn and moved to the device at once: [noisy steps, B, S, C]."""
    shape = (len(plan.noise_steps), *x.shape[1:])
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators], dim=1).to(x.device)


def sample_before_and_after(
    policy: Policy,
    conditioning: Sequence[Conditioning],
    seeds: Sequence[int],
    plan: SamplingPlan,
    after_step: Callable[[], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [B, H, W, 3] of the frozen base, and of the policy from the same noise. See `sample`."""
    with policy.base():
        before = policy.decode(sample(policy, conditioning, seeds, plan, after_step=after_step).latents)
    return before, policy.decode(sample(policy, conditioning, seeds, plan, after_step=after_step).latents)

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.policy.flux import FluxPolicy
from actors.policy.plan import SamplingPlan
from actors.policy.sampler import sample, sample_before_and_after
from actors.policy.transition import flow_sde, flow_sde_log_prob
from tests.support.plain_pipeline import SEEDS, flux_images, flux_latents
from tests.support.tiny_flux import TEXTS, perturb_lora

NOISY = SamplingPlan(denoise_steps=4, noise_level=0.7, noise_steps=(0, 1, 2), train_steps=(0, 1))


def test_without_noise_it_equals_flux_pipeline(policy: FluxPolicy, flux_directory: Path) -> None:
    samples = sample(policy, policy.encode(TEXTS), SEEDS, SamplingPlan(denoise_steps=6))
    torch.testing.assert_close(samples.latents, flux_latents(flux_directory), atol=1e-5, rtol=0)
    images, expected = policy.decode(samples.latents), flux_images(flux_directory)
    np.testing.assert_allclose(images.astype(int), expected.astype(int), atol=1)
    assert (images != expected).mean() < 0.01  # only where a value is rounded the other way
    assert samples.trajectories == ()


def test_a_sample_does_not_depend_on_the_other_samples_of_its_batch(policy: FluxPolicy) -> None:
    """Same seed, same prompt: alone, in a group, or in batches of two. Only rounding may differ."""
    first, second = policy.encode(TEXTS)
    group = sample(policy, [first, second, first], [7, 8, 9], NOISY).trajectories
    alone = sample(policy, [first], [9], NOISY).trajectories[0]
    split = sample(policy, [first, second, first], [7, 8, 9], replace(NOISY, max_batch=2)).trajectories
    assert torch.equal(alone.latents[0], group[2].latents[0])
    torch.testing.assert_close(alone.latents, group[2].latents, atol=1e-5, rtol=0)
    torch.testing.assert_close(split[2].latents, group[2].latents, atol=1e-5, rtol=0)
    assert [row.batch_size for row in split] == [2, 2, 1]


def test_trajectories_record_the_sampled_path(policy: FluxPolicy) -> None:
    samples = sample(policy, policy.encode(TEXTS), SEEDS, NOISY, policy_version=3)
    for i, trajectory in enumerate(samples.trajectories):
        assert trajectory.latents.shape == (5, 16, 32) and trajectory.latents.dtype == torch.float32
        assert torch.equal(trajectory.latents[-1], samples.latents[i])
        assert (trajectory.log_probs != 0).tolist() == [True, True, True, False]
        assert (trajectory.seed, trajectory.policy_version) == (SEEDS[i], 3)
        assert (trajectory.train_steps, trajectory.shared_prefix, trajectory.means) == ((0, 1), 0, None)
        assert torch.equal(trajectory.sigmas, policy.sigmas(4))


def test_each_step_of_a_trajectory_is_the_transition_that_the_plan_names(policy: FluxPolicy) -> None:
    """Recomputed step by step from the recorded latents, with the noise that each sample's own generator draws."""
    conditioning = policy.encode(TEXTS)
    plan = replace(NOISY, keep_means=True)
    rows = policy.batch_conditioning(conditioning)
    trajectories = sample(policy, conditioning, SEEDS, plan).trajectories
    latents = torch.stack([row.latents for row in trajectories], dim=1)  # [T+1, B, S, C]
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    torch.testing.assert_close(latents[0], policy.initial_noise(generators))
    noise = torch.stack([torch.randn(3, 16, 32, generator=generator) for generator in generators], dim=1)
    for step in range(4):
        s, s_next = (trajectories[0].sigmas[at].expand(2) for at in (step, step + 1))
        with torch.no_grad():
            v = policy.velocity(latents[step], s, rows)
        if step == 3:  # the last step is an ODE step
            torch.testing.assert_close(latents[4], latents[3] - s[0] * v)
            continue
        gaussian = flow_sde(latents[step], v, s, s_next, 0.7)
        torch.testing.assert_close(latents[step + 1], gaussian.mean + gaussian.std * noise[step])
        log_probs = torch.stack([row.log_probs[step] for row in trajectories])
        torch.testing.assert_close(log_probs, flow_sde_log_prob(latents[step + 1], gaussian))
        if step in plan.train_steps:
            means = torch.stack([row.means[step] for row in trajectories if row.means is not None])
            torch.testing.assert_close(means, gaussian.mean)
    assert trajectories[0].means is not None and len(trajectories[0].means) == 2


def test_one_conditioning_for_each_seed_is_needed(policy: FluxPolicy) -> None:
    with pytest.raises(ValueError, match="got 1 and 2 seeds"):
        sample(policy, policy.encode(TEXTS[:1]), SEEDS, NOISY)


def test_before_and_after_start_from_the_same_noise(policy: FluxPolicy) -> None:
    """With an untrained LoRA both are equal; with a trained one only the second differs from the base."""
    conditioning, plan = policy.encode(TEXTS), SamplingPlan(denoise_steps=2)
    before, after = sample_before_and_after(policy, conditioning, SEEDS, plan)
    np.testing.assert_array_equal(before, after)
    perturb_lora(policy, 0.2)
    again, trained = sample_before_and_after(policy, conditioning, SEEDS, plan)
    np.testing.assert_array_equal(again, before)
    assert (trained != before).any()

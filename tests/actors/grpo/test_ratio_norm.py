"""GRPO-Guard: the normalized ratio, and the learner with it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from actors.grpo.ratio_norm import guarded_ratio_loss, ratio_norm
from actors.grpo.replay import replay_batches
from actors.policy.flux import FluxPolicy
from actors.policy.transition import GaussianStep, flow_sde, flow_sde_log_prob
from tests.support.learner import SETTINGS, groups_of, learner_of

GUARDED = replace(SETTINGS, algorithm=replace(SETTINGS.algorithm, ratio_norm="grpo_guard", clip_range=2e-6))


def test_the_normalized_log_ratio_by_hand() -> None:
    """std 0.5, means 0.2 apart: 0.5 (0.3 + 0.04 / 0.5) = 0.19."""
    log_ratio, std = torch.tensor([0.3]), torch.full((1, 1, 1), 0.5)
    normalized = ratio_norm(log_ratio, torch.full((1, 2, 3), 0.2), torch.zeros(1, 2, 3), std)
    torch.testing.assert_close(normalized, torch.tensor([0.19]))


def test_normalized_ratios_are_centred_and_equally_wide_at_all_steps() -> None:
    """Monte Carlo under the old policy: plain log-ratios are off centre and wider at later steps."""
    generator = torch.Generator().manual_seed(0)
    x, v, other = torch.randn(3, 1, 3, 4, generator=generator, dtype=torch.float64).expand(-1, 20_000, -1, -1)
    plain, normalized = [], []
    for s, s_next in ((1.0, 0.9), (0.4, 0.2)):
        levels = (
            torch.full((2, len(x)), 1.0, dtype=torch.float64) * torch.tensor([s, s_next], dtype=torch.float64)[:, None]
        )
        old, new = (flow_sde(x, velocity, *levels, 0.7) for velocity in (v, v + 0.3 * other))
        shift = (new.mean - old.mean)[:1]
        new = GaussianStep(
            old.mean + 0.1 * shift / shift.norm(), old.std, old.diffusion
        )  # the same distance at each step
        drawn = old.mean + old.std * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        log_ratio = flow_sde_log_prob(drawn, new) - flow_sde_log_prob(drawn, old)
        plain.append(log_ratio)
        normalized.append(ratio_norm(log_ratio, new.mean, old.mean, old.std))
    error = [float(one.std()) / math.sqrt(len(x)) for one in normalized]
    assert all(abs(float(one.mean())) < 4 * e for one, e in zip(normalized, error, strict=True))
    assert all(float(one.mean()) < -4 * float(one.std()) / math.sqrt(len(x)) for one in plain)
    assert float(normalized[0].std() / normalized[1].std()) == pytest.approx(1.0, abs=0.03)
    assert float(plain[1].std() / plain[0].std()) > 1.3


def test_the_learner_is_exact_on_policy_and_trains(policy: FluxPolicy, flux_directory: Path) -> None:
    learner = learner_of(flux_directory, GUARDED)
    groups = groups_of(policy, learner)
    assert groups[0].trajectories[0].means is not None and groups[0].trajectories[0].means.shape == (2, 16, 32)
    for group in groups:
        group.add_to(learner)
    metrics = learner.optimizer_step()
    assert (metrics.ratio_drift, metrics.ratio_mean) == (0.0, 1.0) and metrics.applied


def test_trajectories_without_means_are_refused(policy: FluxPolicy, flux_directory: Path) -> None:
    group = groups_of(policy, learner_of(flux_directory))[0]
    batch = next(iter(replay_batches(group.trajectories, group.advantages.values, 0)))
    gaussian = GaussianStep(batch.x, torch.ones(4, 1, 1), torch.ones(4, 1, 1))
    with pytest.raises(ValueError, match="keep_means=True"):
        guarded_ratio_loss(torch.zeros(4), batch, gaussian, 1e-4)

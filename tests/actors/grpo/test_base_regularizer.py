"""Rows at untrained steps: where they stand, and that they hold the policy to its base there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from actors.grpo.base_regularizer import regularizer_rows
from actors.policy.flux import FluxPolicy
from actors.policy.plan import first_untrained_step
from conf.policy import PolicySettings, SamplingSettings
from tests.actors.grpo.test_learner import SETTINGS, groups_of, learner_of


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        (PolicySettings(sampling=SamplingSettings(denoise_steps=6, window=3, window_position="sliding")), 5),
        (PolicySettings(sampling=SamplingSettings(denoise_steps=6, window=3, window_position="random")), 5),
        (PolicySettings(sampling=SamplingSettings(denoise_steps=3, window=1, window_position="sliding")), 2),
        (
            PolicySettings(
                sampling=SamplingSettings(denoise_steps=6, window=3, transition="cps", last_step_deterministic=False)
            ),
            5,
        ),
        (PolicySettings(sampling=SamplingSettings(denoise_steps=6, window=3, window_position="first")), 3),
        (PolicySettings(sampling=SamplingSettings(denoise_steps=6, window=0, train_steps=2)), 2),
        (PolicySettings(sampling=SamplingSettings(denoise_steps=6, window=0, train_steps=0)), 5),
        (
            PolicySettings(
                sampling=SamplingSettings(denoise_steps=6, window=0, train_steps=0, last_step_deterministic=False)
            ),
            6,
        ),
    ],
)
def test_where_the_untrained_steps_begin(settings: PolicySettings, first: int) -> None:
    assert first_untrained_step(settings) == first


def test_rows_stand_on_the_way_to_the_image(policy: FluxPolicy, flux_directory: Path) -> None:
    """Three of four samples, one row each, inside the last of four steps; the same whenever they are drawn."""
    _, conditioning, trajectories = groups_of(policy, learner_of(flux_directory))[0]
    rows = regularizer_rows(trajectories, conditioning, tail=3, samples=3)
    assert [row.weight for row in rows] == [1 / 3] * 3
    for row, trajectory in zip(rows, (trajectories[0], trajectories[1], trajectories[2]), strict=True):
        before, image = trajectory.latents[3], trajectory.latents[4]
        assert 0 < row.s < trajectory.sigmas[3]
        torch.testing.assert_close(row.x, image + row.s / trajectory.sigmas[3] * (before - image))
    assert len({float(row.s) for row in rows}) == 3
    again = regularizer_rows(trajectories, conditioning, tail=3, samples=3)
    assert all(torch.equal(one.x, other.x) for one, other in zip(rows, again, strict=True))
    assert len(regularizer_rows(trajectories, conditioning, tail=3, samples=99)) == 4
    assert regularizer_rows(trajectories, conditioning, tail=4, samples=3) == []
    assert regularizer_rows([], conditioning, tail=3, samples=3) == []


def test_the_anchor_adds_its_gradient_whatever_divides_the_advantages(policy: FluxPolicy, flux_directory: Path) -> None:
    """The difference to an update without one is the gradient of weight * mean (v - v_base)^2, taken here by itself."""
    gradients, measured = [], []
    for weight in (0.0, 0.5):
        learner = learner_of(
            flux_directory,
            replace(
                SETTINGS,
                algorithm=replace(SETTINGS.algorithm, base_regularizer_weight=weight, base_regularizer_samples=2),
                optimizer=replace(SETTINGS.optimizer, max_grad_norm=1e9),
            ),
        )
        _disturb(learner.policy)
        learner.engine.optimizer.step = lambda: None  # type: ignore[attr-defined]
        learner.engine.optimizer.zero_grad = lambda set_to_none: None  # type: ignore[attr-defined]
        groups = groups_of(policy, learner)
        for group in groups:
            learner.accumulate(*group)
        measured.append(learner.step(divisor=4.0).base_distance)
        gradients.append([parameter.grad.clone() for parameter in learner.engine.parameters])  # type: ignore[union-attr]
    own, parameters = learner.policy, learner.engine.parameters
    rows = [row for _, conditioning, kept in groups for row in regularizer_rows(kept, conditioning, tail=3, samples=2)]
    x, s = torch.stack([row.x for row in rows]), torch.stack([row.s for row in rows])
    stacked = own.batch_conditioning([row.conditioning for row in rows])
    with own.base(), torch.no_grad():
        base = own.velocity(x, s, stacked)
    distance = ((own.velocity(x, s, stacked) - base) ** 2).mean()
    wanted = torch.autograd.grad(0.5 * distance, parameters)
    assert measured == pytest.approx([0.0, distance.item()], rel=1e-4) and measured[1] > 0
    for one, other, gradient in zip(*gradients, wanted, strict=True):
        torch.testing.assert_close(other - one, gradient, atol=1e-6, rtol=1e-3)


def _disturb(policy: FluxPolicy) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.trainable().values():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)

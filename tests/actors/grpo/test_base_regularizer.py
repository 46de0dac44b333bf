"""The base regularizer: the positions of its rows, and its gradient."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from actors.grpo.base_regularizer import regularizer_rows
from actors.policy.flux import FluxPolicy
from tests.support.learner import SETTINGS, gradients_of, groups_of, learner_of
from tests.support.tiny_flux import perturb_lora


def test_rows_are_on_the_path_to_the_image(policy: FluxPolicy, flux_directory: Path) -> None:
    """Three of four samples, one row each, inside the last of four steps; the same rows at every call."""
    group = groups_of(policy, learner_of(flux_directory))[0]
    trajectories, conditioning = group.trajectories, group.conditioning
    rows = regularizer_rows(trajectories, conditioning, first_step=3, samples=3)
    assert [row.weight for row in rows] == [1 / 3] * 3
    for row, trajectory in zip(rows, trajectories[:3], strict=True):
        before, image = trajectory.latents[3], trajectory.latents[4]
        assert 0 < row.s < trajectory.sigmas[3]
        torch.testing.assert_close(row.x, image + row.s / trajectory.sigmas[3] * (before - image))
    assert len({float(row.s) for row in rows}) == 3
    again = regularizer_rows(trajectories, conditioning, first_step=3, samples=3)
    assert all(torch.equal(one.x, other.x) for one, other in zip(rows, again, strict=True))
    assert len(regularizer_rows(trajectories, conditioning, first_step=3, samples=99)) == 4
    assert regularizer_rows(trajectories, conditioning, first_step=4, samples=3) == []
    assert regularizer_rows([], conditioning, first_step=3, samples=3) == []


def test_rows_are_spread_over_the_samples_and_the_untrained_steps(policy: FluxPolicy, flux_directory: Path) -> None:
    """Two rows of four samples are those of the first and the third; steps 1 to 3 all occur among many seeds."""
    group = groups_of(policy, learner_of(flux_directory))[0]
    rows = regularizer_rows(group.trajectories, group.conditioning, first_step=3, samples=2)
    for row, trajectory in zip(rows, (group.trajectories[0], group.trajectories[2]), strict=True):
        before, image = trajectory.latents[3], trajectory.latents[4]
        torch.testing.assert_close(row.x, image + row.s / trajectory.sigmas[3] * (before - image))
    many = [replace(group.trajectories[0], seed=seed) for seed in range(40)]
    levels = [float(row.s) for row in regularizer_rows(many, group.conditioning, first_step=1, samples=40)]
    sigmas = group.trajectories[0].sigmas.tolist()
    steps = {sum(s <= sigma for sigma in sigmas) - 1 for s in levels}
    assert steps == {1, 2, 3} and max(levels) < sigmas[1]


def test_its_gradient_does_not_depend_on_the_gradient_divisor(policy: FluxPolicy, flux_directory: Path) -> None:
    """The difference to a step without the regularizer is the gradient of weight * mean (v - v_base)^2."""
    gradients: list[list[torch.Tensor]] = []
    measured: list[float] = []
    for weight in (0.0, 0.5):
        settings = replace(
            SETTINGS,
            algorithm=replace(SETTINGS.algorithm, base_regularizer_weight=weight, base_regularizer_samples=2),
            optimizer=replace(SETTINGS.optimizer, max_grad_norm=1e9),
        )
        learner = learner_of(flux_directory, settings)
        perturb_lora(learner.policy, 0.05)
        learner.engine.optimizer.step = lambda: None  # type: ignore[attr-defined]
        learner.engine.optimizer.zero_grad = lambda set_to_none: None  # type: ignore[attr-defined]
        groups = groups_of(policy, learner)
        for group in groups:
            group.add_to(learner)
        metrics = learner.optimizer_step(4.0)
        measured.append(metrics.base_distance)
        assert metrics.regularizer_rows == (4 if weight else 0)
        gradients.append(gradients_of(learner))
    trained, parameters = learner.policy, learner.engine.parameters
    rows = [
        row
        for group in groups
        for row in regularizer_rows(group.trajectories, group.conditioning, first_step=3, samples=2)
    ]
    x, s = torch.stack([row.x for row in rows]), torch.stack([row.s for row in rows])
    conditioning = trained.batch_conditioning([row.conditioning for row in rows])
    with trained.base(), torch.no_grad():
        base = trained.velocity(x, s, conditioning)
    distance = ((trained.velocity(x, s, conditioning) - base) ** 2).mean()
    expected = torch.autograd.grad(0.5 * distance, parameters)
    assert measured == pytest.approx([0.0, distance.item()], rel=1e-4) and measured[1] > 0
    for without, with_regularizer, gradient in zip(*gradients, expected, strict=True):
        torch.testing.assert_close(with_regularizer - without, gradient, atol=1e-6, rtol=1e-3)

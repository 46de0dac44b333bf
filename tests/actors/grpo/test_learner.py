from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.grpo.advantages import group_advantages
from actors.policy.flux import FluxPolicy
from actors.types import Conditioning
from tests.support.learner import SETTINGS, gradients_of, groups_of, learner_of, train
from tests.support.tiny_flux import perturb_lora

FASTER = replace(SETTINGS, optimizer=replace(SETTINGS.optimizer, lr=1e-3))


def test_a_replay_in_the_samplers_batch_shape_is_exact(policy: FluxPolicy, flux_directory: Path) -> None:
    """Tolerance 0: the ratio is exactly 1 before the first optimizer step, with a LoRA that has an effect."""
    learner = learner_of(flux_directory)
    perturb_lora(learner.policy, 0.05)
    for group in groups_of(policy, learner):
        group.add_to(learner)
    metrics = learner.optimizer_step()
    assert (metrics.ratio_drift, metrics.ratio_mean) == (0.0, 1.0)
    assert metrics.applied and metrics.rows == 16 and metrics.samples == 8
    assert metrics.regularizer_rows == 4


def test_an_optimizer_step_makes_the_best_samples_more_likely(policy: FluxPolicy, flux_directory: Path) -> None:
    """After one step the log-probabilities of good samples have risen relative to those of bad ones."""
    learner = learner_of(flux_directory, FASTER)
    groups = groups_of(policy, learner)
    for group in groups:
        group.add_to(learner)
    learner.optimizer_step()
    for group in groups:
        group.add_to(learner)
    second = learner.optimizer_step()
    assert second.ratio_mean != 1.0 and np.isnan(second.ratio_drift)
    assert second.loss < 0  # mean of -A r, which was 0


def test_a_gradient_divisor_equals_smaller_advantages(policy: FluxPolicy, flux_directory: Path) -> None:
    """Compares loss and gradient norm, because AdamW's step does not depend on them. The second step clips."""
    measured: list[tuple[float, float, float]] = []
    for advantage_divisor, grad_divisor in ((8.0, 1.0), (1.0, 8.0)):
        learner = learner_of(flux_directory, replace(FASTER, optimizer=replace(FASTER.optimizer, warmup_iterations=1)))
        groups = groups_of(policy, learner)
        for _ in range(2):
            for group in groups:
                values = tuple(value / advantage_divisor for value in group.advantages.values)
                learner.accumulate(replace(group.advantages, values=values), group.conditioning, group.trajectories)
            metrics = learner.optimizer_step(grad_divisor)
            measured.append((metrics.loss, metrics.grad_norm, metrics.clip_fraction))
    assert measured[1][2] > 0
    assert measured[2:] == measured[:2]  # bit for bit: 8 is a power of two


def test_the_size_of_a_forward_pass_does_not_change_the_gradient(policy: FluxPolicy, flux_directory: Path) -> None:
    gradients: list[list[torch.Tensor]] = []
    for rows in (0, 3, 16):
        settings = replace(
            SETTINGS,
            learner=replace(SETTINGS.learner, replay_batch=rows),
            algorithm=replace(SETTINGS.algorithm, kl_weight=0.1),
        )
        learner = learner_of(flux_directory, settings)
        for group in groups_of(policy, learner):
            group.add_to(learner)
        gradients.append(gradients_of(learner))
    for others in gradients[1:]:
        for one, other in zip(gradients[0], others, strict=True):
            torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-3)


@pytest.mark.parametrize("rows", [0, 3, 16])
@pytest.mark.parametrize("ratio_norm", ["none", "grpo_guard"])
def test_shared_latents_are_replayed_once_with_the_same_gradient(
    policy: FluxPolicy, flux_directory: Path, rows: int, ratio_norm: str
) -> None:
    """The same gradient, KL and ratio as if each sample replayed the shared latent alone."""
    settings = replace(
        SETTINGS,
        learner=replace(SETTINGS.learner, replay_batch=rows),
        algorithm=replace(SETTINGS.algorithm, ratio_norm=ratio_norm, kl_weight=0.1, ratio_tolerance=1e-4),
    )
    gradients, measured = [], []
    for shared in (True, False):
        learner = learner_of(flux_directory, settings)
        for group in groups_of(policy, learner):
            assert all(row.shared_prefix == 1 for row in group.trajectories)
            rewritten = [row if shared else replace(row, shared_prefix=0) for row in group.trajectories]
            learner.accumulate(group.advantages, group.conditioning, rewritten)
        gradients.append(gradients_of(learner))
        metrics = learner.optimizer_step()
        measured.append((metrics.rows, metrics.loss, metrics.kl, metrics.ratio_mean, metrics.grad_norm))
    assert measured[0] == pytest.approx(measured[1], abs=1e-6)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-3)


def test_only_the_window_is_trained(policy: FluxPolicy, flux_directory: Path) -> None:
    sampling = replace(SETTINGS.sampling, window=1, window_position="sliding", window_stride=1)
    learner = learner_of(flux_directory, replace(SETTINGS, sampling=sampling))
    learner.version = 1
    groups = groups_of(policy, learner)
    assert groups[0].trajectories[0].train_steps == (1,)
    for group in groups:
        group.add_to(learner)
    metrics = learner.optimizer_step()
    assert metrics.rows == 8 and metrics.ratio_drift == 0.0


def test_a_gradient_that_is_not_finite_changes_nothing(policy: FluxPolicy, flux_directory: Path) -> None:
    learner = learner_of(flux_directory)
    group = groups_of(policy, learner)[0]
    learner.accumulate(replace(group.advantages, values=(float("nan"),) * 4), group.conditioning, group.trajectories)
    before = learner.weights().lora
    metrics = learner.optimizer_step()
    assert not metrics.applied and learner.optimizer_steps == 0
    assert all(np.array_equal(value, before[key]) for key, value in learner.weights().lora.items())
    group.add_to(learner)
    metrics = learner.optimizer_step()
    assert metrics.applied and metrics.ratio_drift == 0.0  # the weights are still the published ones


def test_an_optimizer_step_of_skipped_groups_changes_nothing(flux_directory: Path) -> None:
    learner = learner_of(flux_directory)
    skipped = group_advantages(np.zeros(4), SETTINGS.algorithm)
    learner.accumulate(skipped, Conditioning(torch.zeros(24, 64), torch.zeros(64)), [])
    metrics = learner.optimizer_step()
    assert not metrics.applied and np.isnan(metrics.grad_norm) and metrics.rows == 0
    assert (metrics.loss, metrics.base_distance, metrics.regularizer_rows) == (0.0, 0.0, 0)


def test_trajectories_must_match_the_kept_samples(policy: FluxPolicy, flux_directory: Path) -> None:
    learner = learner_of(flux_directory)
    group = groups_of(policy, learner)[0]
    with pytest.raises(ValueError, match="got 3 and 4"):
        learner.accumulate(group.advantages, group.conditioning, group.trajectories[:3])


def test_a_resumed_learner_continues_bit_for_bit(policy: FluxPolicy, flux_directory: Path, tmp_path: Path) -> None:
    undisturbed = learner_of(flux_directory)
    train(undisturbed, policy, 2)
    torch.save(undisturbed.state_dict(), tmp_path / "state.pt")
    train(undisturbed, policy, 2)
    resumed = learner_of(flux_directory, replace(SETTINGS, seed=1))  # other initial weights: only the state can help
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    train(resumed, policy, 2)
    assert resumed.version == 4 and resumed.optimizer_steps == undisturbed.optimizer_steps == 4
    for one, other in ((undisturbed.weights(), resumed.weights()), (undisturbed.ema_weights(), resumed.ema_weights())):
        assert all(np.array_equal(value, other.lora[key]) for key, value in one.lora.items())


def test_a_loaded_state_has_no_gradient(policy: FluxPolicy, flux_directory: Path) -> None:
    """What was accumulated before belongs to other weights."""
    learner = learner_of(flux_directory)
    state = learner.state_dict()
    for group in groups_of(policy, learner):
        group.add_to(learner)
    learner.load_state_dict(state)
    assert all(parameter.grad is None for parameter in learner.engine.parameters)
    metrics = learner.optimizer_step()
    assert not metrics.applied and metrics.rows == 0 and metrics.regularizer_rows == 0
    assert np.isnan(metrics.ratio_drift)


def test_a_version_is_on_policy_until_its_first_optimizer_step(policy: FluxPolicy, flux_directory: Path) -> None:
    """Also after `end_iteration` and after a loaded state; the drift is measured exactly then."""
    learner = learner_of(flux_directory, replace(FASTER, algorithm=replace(SETTINGS.algorithm, ratio_tolerance=1.0)))

    def drift(version: int) -> float:
        for group in groups_of(policy, learner):
            assert group.trajectories[0].policy_version == version
            group.add_to(learner)
        return learner.optimizer_step().ratio_drift

    state = learner.state_dict()
    assert drift(0) == 0.0 and np.isnan(drift(0))
    assert learner.end_iteration() == 1
    assert drift(1) == 0.0
    learner.load_state_dict(state)
    assert learner.version == 0 and drift(0) == 0.0


def test_the_learning_rate_and_the_moving_average_follow_the_version(policy: FluxPolicy, flux_directory: Path) -> None:
    settings = replace(SETTINGS, optimizer=replace(SETTINGS.optimizer, lr=1e-3, warmup_iterations=4))
    learner = learner_of(flux_directory, settings)
    start = learner.weights().lora
    rates: list[float] = []
    for _ in range(2):
        for group in groups_of(policy, learner):
            group.add_to(learner)
        rates.append(learner.optimizer_step().lr)
        learner.end_iteration()
        if learner.version == 1:  # d = 2 / 11
            averaged, lora = learner.ema_weights(), learner.weights().lora
            assert averaged.version == 1
            for key, value in averaged.lora.items():
                np.testing.assert_allclose(value, start[key] * 2 / 11 + lora[key] * 9 / 11, atol=1e-7)
    assert rates == pytest.approx([1e-3 / 4, 2 / 4 * 1e-3 * (1 - 0.9 / 4)])


def test_published_weights_are_copies(policy: FluxPolicy, flux_directory: Path) -> None:
    learner = learner_of(flux_directory, FASTER)
    weights, averaged = learner.weights(), learner.ema_weights()
    before = {key: value.copy() for key, value in (*weights.lora.items(), *averaged.lora.items())}
    train(learner, policy, 1)
    for key, value in (*weights.lora.items(), *averaged.lora.items()):
        assert np.array_equal(value, before[key])
    assert any(not np.array_equal(value, before[key]) for key, value in learner.weights().lora.items())

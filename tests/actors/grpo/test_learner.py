from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.grpo.advantages import Advantages, group_advantages
from actors.grpo.learner import GrpoLearner, OffPolicyError
from actors.grpo.replay import replay_batches
from actors.optim.torch_engine import OptimizerSettings, TorchEngine
from actors.policy.flux import FluxPolicy
from actors.policy.plan import SamplingPlan
from actors.policy.sampler import sample
from actors.types import Conditioning, Trajectory
from conf.flux import FluxSettings
from conf.policy import AlgorithmSettings, LearnerSettings, PolicyOptimizerSettings, PolicySettings, SamplingSettings

SETTINGS = PolicySettings(
    iterations=4,
    prompts_per_iteration=2,
    group_size=4,
    algorithm=AlgorithmSettings(top_k=2, ratio_tolerance=0.0),
    sampling=SamplingSettings(denoise_steps=4, window=2),
    learner=LearnerSettings(replay_batch=0),
    optimizer=PolicyOptimizerSettings(steps_per_iteration=1),
)
TEXTS = ["a red circle left of a blue square", "a green triangle above a red square"]

Groups = list[tuple[Advantages, Conditioning, list[Trajectory]]]


def learner_of(directory: Path, settings: PolicySettings = SETTINGS) -> GrpoLearner:
    policy = FluxPolicy.from_pretrained(str(directory), FluxSettings(), transformer_only=True, seed=settings.seed)
    constants = OptimizerSettings(
        settings.optimizer.betas, settings.optimizer.weight_decay, settings.optimizer.max_grad_norm
    )
    engine = TorchEngine(list(policy.trainable().values()), constants)
    return GrpoLearner(policy, engine, settings)


def groups_of(policy: FluxPolicy, learner: GrpoLearner, first_seed: int = 0) -> Groups:
    """Two groups under the learner's own weights, scored by a fixed random direction of the final latents."""
    policy.load_lora(learner.weights().lora)
    direction = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    groups = []
    for i, conditioning in enumerate(policy.encode(TEXTS)):
        seeds = range(first_seed + 10 * i, first_seed + 10 * i + 4)
        drawn = sample(
            policy,
            [conditioning] * 4,
            seeds,
            SamplingPlan.for_training(learner.settings, learner.version),
            learner.version,
        )
        advantages = group_advantages((drawn.latents * direction).sum((1, 2)).numpy(), 2, "selected", 5.0)
        groups.append((advantages, conditioning, [drawn.trajectories[k] for k in advantages.kept]))
    return groups


def train(learner: GrpoLearner, policy: FluxPolicy, iterations: int) -> None:
    for _ in range(iterations):
        for group in groups_of(policy, learner, 100 * learner.version):
            learner.accumulate(*group)
        learner.step()
        learner.advance()


def test_the_replay_of_the_samplers_own_shape_is_exact(policy: FluxPolicy, flux_directory: Path) -> None:
    """Tolerance 0: the ratio is exactly 1 before the first update, with a LoRA that does something."""
    learner = learner_of(flux_directory)
    generator = torch.Generator().manual_seed(0)
    for parameter in learner.policy.trainable().values():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    for group in groups_of(policy, learner):
        learner.accumulate(*group)
    metrics = learner.step()
    assert (metrics.ratio_drift, metrics.ratio_mean) == (0.0, 1.0)
    assert metrics.applied and metrics.rows == 16 and metrics.samples == 8


def test_an_update_raises_what_was_rewarded(policy: FluxPolicy, flux_directory: Path) -> None:
    """After one update the log-probs of good samples rise against those of bad ones."""
    learner = learner_of(flux_directory, replace(SETTINGS, optimizer=replace(SETTINGS.optimizer, lr=1e-3)))
    groups = groups_of(policy, learner)
    for group in groups:
        learner.accumulate(*group)
    learner.step()
    for group in groups:
        learner.accumulate(*group)
    second = learner.step()
    assert second.ratio_mean != 1.0 and np.isnan(second.ratio_drift)
    assert second.loss < 0  # mean of -A r, which was 0


def test_a_divisor_at_the_step_is_one_of_the_advantages(policy: FluxPolicy, flux_directory: Path) -> None:
    """Loss and gradient norm, which an AdamW step alone would not tell; the second update clips ratios."""
    measured = []
    for at_once, last in ((8.0, 1.0), (1.0, 8.0)):
        learner = learner_of(
            flux_directory, replace(SETTINGS, optimizer=replace(SETTINGS.optimizer, lr=1e-3, warmup_iterations=1))
        )
        groups = groups_of(policy, learner)
        for _ in range(2):
            for advantages, *rest in groups:
                divided = replace(advantages, values=tuple(value / at_once for value in advantages.values))
                learner.accumulate(divided, *rest)
            metrics = learner.step(last)
            measured.append((metrics.loss, metrics.grad_norm, metrics.clip_fraction))
    assert measured[1][2] > 0
    assert measured[2:] == measured[:2]  # to the bit: 8 is a power of two


def test_rows_of_a_forward_do_not_change_the_gradient(policy: FluxPolicy, flux_directory: Path) -> None:
    gradients = []
    for rows in (0, 3, 16):
        learner = learner_of(
            flux_directory,
            replace(
                SETTINGS,
                learner=replace(SETTINGS.learner, replay_batch=rows),
                algorithm=replace(SETTINGS.algorithm, kl_weight=0.1),
            ),
        )
        for group in groups_of(policy, learner):
            learner.accumulate(*group)
        gradients.append([p.grad.clone() for p in learner.policy.trainable().values() if p.grad is not None])
    for others in gradients[1:]:
        for one, other in zip(gradients[0], others, strict=True):
            torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-3)


@pytest.mark.parametrize("rows", [0, 3, 16])
@pytest.mark.parametrize("ratio", ["plain", "guard"])
def test_a_latent_that_samples_share_is_replayed_once_for_all(
    policy: FluxPolicy, flux_directory: Path, rows: int, ratio: str
) -> None:
    """The same gradient, KL and drift as where every sample replays it for itself, from fewer forwards."""
    settings = replace(
        SETTINGS,
        learner=replace(SETTINGS.learner, replay_batch=rows),
        algorithm=replace(SETTINGS.algorithm, ratio_norm=ratio, kl_weight=0.1, ratio_tolerance=1e-4),
    )
    gradients, measured, latents = [], [], []
    for shared in (True, False):
        learner = learner_of(flux_directory, settings)
        for advantages, conditioning, trajectories in groups_of(policy, learner):
            assert all(row.shared_prefix == 1 for row in trajectories)
            told = [row if shared else replace(row, shared=0) for row in trajectories]
            learner.accumulate(advantages, conditioning, told)
            latents.append(sum(len(each.s) for each in replay_batches(told, advantages.values, rows)))
        gradients.append([p.grad.clone() for p in learner.policy.trainable().values() if p.grad is not None])
        metrics = learner.step()
        measured.append((metrics.rows, metrics.loss, metrics.kl, metrics.ratio_mean, metrics.grad_norm))
    assert latents == [5, 5, 8, 8]
    assert measured[0] == pytest.approx(measured[1], abs=1e-6)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-3)


def test_the_guarded_ratio_is_exact_on_policy_and_trains(policy: FluxPolicy, flux_directory: Path) -> None:
    learner = learner_of(
        flux_directory,
        replace(SETTINGS, algorithm=replace(SETTINGS.algorithm, ratio_norm="grpo_guard", clip_range=2e-6)),
    )
    groups = groups_of(policy, learner)
    assert groups[0][2][0].means is not None and groups[0][2][0].means.shape == (2, 16, 32)
    for group in groups:
        learner.accumulate(*group)
    metrics = learner.step()
    assert (metrics.ratio_drift, metrics.ratio_mean) == (0.0, 1.0) and metrics.applied


def test_a_window_is_trained_and_nothing_else(policy: FluxPolicy, flux_directory: Path) -> None:
    learner = learner_of(
        flux_directory,
        replace(SETTINGS, sampling=replace(SETTINGS.sampling, window=1, window_position="sliding", window_stride=1)),
    )
    learner.version = 1
    groups = groups_of(policy, learner)
    assert groups[0][2][0].train_steps == (1,)
    for group in groups:
        learner.accumulate(*group)
    metrics = learner.step()
    assert metrics.rows == 8 and metrics.ratio_drift == 0.0


def test_the_gate_names_the_step_that_drifted(policy: FluxPolicy, flux_directory: Path) -> None:
    learner = learner_of(flux_directory)
    advantages, conditioning, trajectories = groups_of(policy, learner)[0]
    log_probs = trajectories[1].log_probs.clone()
    log_probs[1] += 1e-3
    trajectories[1] = replace(trajectories[1], log_probs=log_probs)
    learner.accumulate(advantages, conditioning, trajectories)
    before = learner.weights().lora
    with pytest.raises(OffPolicyError, match=r"got 0.001 at denoise step 1"):
        learner.step()
    assert all(np.array_equal(value, before[key]) for key, value in learner.weights().lora.items())


def test_stale_samples_do_not_shut_the_gate(policy: FluxPolicy, flux_directory: Path) -> None:
    learner = learner_of(flux_directory)
    advantages, conditioning, trajectories = groups_of(policy, learner)[0]
    stale = [replace(row, policy_version=-1, log_probs=row.log_probs + 1e-3) for row in trajectories]
    learner.accumulate(advantages, conditioning, stale)
    assert learner.step().applied


def test_a_gradient_that_is_not_finite_changes_nothing(policy: FluxPolicy, flux_directory: Path) -> None:
    learner = learner_of(flux_directory)
    advantages, conditioning, trajectories = groups_of(policy, learner)[0]
    learner.accumulate(replace(advantages, values=(float("nan"),) * 4), conditioning, trajectories)
    before = learner.weights().lora
    metrics = learner.step()
    assert not metrics.applied and learner.optimizer_steps == 0
    assert all(np.array_equal(value, before[key]) for key, value in learner.weights().lora.items())


def test_an_update_of_skipped_groups_is_skipped(flux_directory: Path) -> None:
    learner = learner_of(flux_directory)
    skipped = group_advantages(np.zeros(4), 2, "selected", 5.0)
    learner.accumulate(skipped, Conditioning(torch.zeros(24, 64), torch.zeros(64)), [])
    metrics = learner.step()
    assert not metrics.applied and np.isnan(metrics.grad_norm) and metrics.rows == 0


def test_a_resumed_learner_goes_on_bit_for_bit(policy: FluxPolicy, flux_directory: Path, tmp_path: Path) -> None:
    undisturbed = learner_of(flux_directory)
    train(undisturbed, policy, 2)
    torch.save(undisturbed.state_dict(), tmp_path / "state.pt")
    train(undisturbed, policy, 2)
    resumed = learner_of(flux_directory, replace(SETTINGS, seed=1))  # another start, so that only the state can help
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    train(resumed, policy, 2)
    assert resumed.version == 4 and resumed.optimizer_steps == undisturbed.optimizer_steps == 4
    for one, other in ((undisturbed.weights(), resumed.weights()), (undisturbed.ema_weights(), resumed.ema_weights())):
        assert all(np.array_equal(value, other.lora[key]) for key, value in one.lora.items())


def test_a_loaded_state_begins_without_a_gradient(policy: FluxPolicy, flux_directory: Path) -> None:
    """What was accumulated before belongs to other weights."""
    learner = learner_of(flux_directory)
    state = learner.state_dict()
    for group in groups_of(policy, learner):
        learner.accumulate(*group)
    learner.load_state_dict(state)
    assert all(parameter.grad is None for parameter in learner.engine.parameters)
    metrics = learner.step()
    assert not metrics.applied and metrics.rows == 0


def test_learning_rate_and_moving_average(flux_directory: Path) -> None:
    learner = learner_of(
        flux_directory,
        replace(
            SETTINGS, optimizer=replace(SETTINGS.optimizer, lr=1.0 - 1e-9, final_lr_fraction=0.2, warmup_iterations=1)
        ),
    )
    rates = []
    for _ in range(5):
        rates.append(learner.learning_rate())
        learner.advance()
    assert rates == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    learner.version, learner.settings = (
        1,
        replace(learner.settings, optimizer=replace(learner.settings.optimizer, warmup_iterations=4)),
    )
    assert learner.learning_rate() == pytest.approx(2 / 4 * 0.8)
    learner.version = 5
    key, value = next(iter(learner.policy.lora_state().items()))
    old = learner.ema[key].clone()
    value += 1.0
    learner.advance()  # version 6: d = 7 / 16
    torch.testing.assert_close(learner.ema[key], old * 7 / 16 + value * 9 / 16)

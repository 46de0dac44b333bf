"""The objective nft: its loss and gradient against the formulas of docs/mathematics.md, its weights, and its state.

The reference is written from the document alone, one row at a time in float64, with nothing of actors/grpo.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.grpo.advantages import Advantages, group_advantages
from actors.grpo.gate import OffPolicyError
from actors.grpo.nft_learner import NftLearner
from actors.grpo.nft_loss import nft_loss, weighted_distance
from actors.grpo.nft_rows import noised_rows
from actors.grpo.objective import learner_of as choose_learner
from actors.policy.flux import FluxPolicy
from actors.policy.plan import SamplingPlan
from actors.policy.sampler import sample
from actors.types import Conditioning, Trajectory
from conf import SettingsError
from conf.flux import FluxSettings
from conf.policy import NftSettings, PolicySettings
from tests.support.learner import SETTINGS as GRPO
from tests.support.learner import torch_engine
from tests.support.tiny_flux import TEXTS, perturb_lora

SETTINGS = replace(
    GRPO,
    algorithm=replace(GRPO.algorithm, objective="nft", kl_form="velocity", kl_weight=0.5),
    optimizer=replace(GRPO.optimizer, max_grad_norm=1e9),
    learner=replace(GRPO.learner, replay_batch=5),
    nft=NftSettings(beta=0.4, advantage_range=1.0, noise_levels=2, sampling_decay=0.75),
)
"""Two groups of four images; some advantages are outside the range."""

Group = tuple[Advantages, Conditioning, list[Trajectory]]


def nft_learner(directory: Path, settings: PolicySettings = SETTINGS) -> NftLearner:
    policy = FluxPolicy.from_pretrained(str(directory), FluxSettings(), transformer_only=True, seed=settings.seed)
    learner = choose_learner(policy, torch_engine(policy, settings), settings)
    assert isinstance(learner, NftLearner)
    return learner


def groups_of(policy: FluxPolicy, learner: NftLearner) -> list[Group]:
    """Two groups that the published weights sampled, scored by a fixed random direction of the final latents."""
    policy.load_lora(learner.weights().lora)
    direction = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    plan = SamplingPlan.for_training(learner.settings, learner.version)
    groups: list[Group] = []
    for i, conditioning in enumerate(policy.encode(TEXTS)):
        seeds = range(100 * learner.version + 10 * i, 100 * learner.version + 10 * i + 4)
        samples = sample(policy, [conditioning] * 4, seeds, plan, learner.version)
        scores = (samples.latents * direction).sum((1, 2)).numpy()
        advantages = group_advantages(scores, learner.settings.algorithm)
        groups.append((advantages, conditioning, [samples.trajectories[k] for k in advantages.kept]))
    return groups


def iterate(learner: NftLearner, policy: FluxPolicy, iterations: int, score_std: float = 1.0) -> None:
    for _ in range(iterations):
        for group in groups_of(policy, learner):
            learner.accumulate(*group)
        assert learner.optimizer_step(score_std).applied
        learner.end_iteration()


def reference_loss(learner: NftLearner, groups: list[Group]) -> torch.Tensor:
    """The loss of docs/mathematics.md, "NFT": the mean over groups, images and noise levels."""
    policy, nft = learner.policy, learner.settings.nft
    total = torch.zeros((), dtype=torch.float64)
    for advantages, conditioning, ends in groups:
        for rows in noised_rows(ends, advantages.values, policy.sigmas(1000)[:-1], nft.noise_levels, 1):
            condition = policy.batch_conditioning([conditioning])
            v = policy.velocity(rows.x, rows.s, condition)[0].double()
            with torch.no_grad():
                with learner.sampling():
                    old = policy.velocity(rows.x, rows.s, condition)[0].double()
                with policy.base():
                    base = policy.velocity(rows.x, rows.s, condition)[0].double()
            x0 = rows.x[0].double() - rows.s.double() * rows.target[0].double()
            r = 0.5 + min(max(float(rows.advantage) / nft.advantage_range, -1), 1) / 2
            terms = []
            for implicit in ((1 - nft.beta) * old + nft.beta * v, (1 + nft.beta) * old - nft.beta * v):
                error = rows.x[0].double() - rows.s.double() * implicit - x0  # of the predicted image
                terms.append((error**2).mean() / error.abs().mean().detach())
            loss = nft.advantage_range / nft.beta * (r * terms[0] + (1 - r) * terms[1])
            loss = loss + learner.settings.algorithm.kl_weight * ((v - base) ** 2).mean()
            total = total + loss / (len(ends) * nft.noise_levels * len(groups))
    return total


def test_the_gradient_is_that_of_the_documented_loss(policy: FluxPolicy, flux_directory: Path) -> None:
    """The weights in training have left those that sampled, which have left the base."""
    learner = nft_learner(flux_directory)
    perturb_lora(learner.policy, 0.05)
    learner.end_iteration()
    groups = groups_of(policy, learner)
    perturb_lora(learner.policy, 0.05, seed=3)
    parameters = list(learner.policy.trainable().values())
    expected = torch.autograd.grad(reference_loss(learner, groups), parameters)
    for group in groups:
        learner.accumulate(*group)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=2e-6, rtol=2e-3)
    metrics = learner.optimizer_step()
    assert metrics.applied and metrics.rows == 16 and metrics.samples == 8 and metrics.kl > 0
    assert 0 < metrics.clip_fraction < 1


def test_limits_of_the_loss() -> None:
    """With r = 1 only the positive policy counts, with r = 0 only the negative one; b -> 0: A D(v), as at v = v_old."""
    generator = torch.Generator().manual_seed(0)
    old, target = (torch.randn(3, 4, 2, generator=generator) for _ in range(2))
    v = (old + 0.5 * torch.randn(3, 4, 2, generator=generator)).requires_grad_()
    s, advantage = torch.tensor([0.2, 0.6, 1.0]), torch.tensor([0.9, -0.4, 3.0])

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(loss.sum(), v)[0]

    def nft(at: torch.Tensor, a: torch.Tensor, beta: float, advantage_range: float = 1.0) -> torch.Tensor:
        return nft_loss(at, old, target, s, a, beta, advantage_range)

    ones = torch.ones(3)
    torch.testing.assert_close(nft(v, ones, 1.0), weighted_distance(v, target, s))
    torch.testing.assert_close(nft(v, 7 * ones, 1.0), weighted_distance(v, target, s))
    torch.testing.assert_close(nft(v, -ones, 1.0), weighted_distance(2 * old - v, target, s))
    residual = s[:, None, None] * (old - target)
    plain = (
        advantage.clamp(-2, 2)[:, None, None]
        * 2
        * s[:, None, None]
        * residual
        / (old[0].numel() * residual.abs().mean((1, 2), keepdim=True))
    )
    torch.testing.assert_close(gradient(nft(v, advantage, 1e-5, 2.0)), plain, atol=1e-4, rtol=1e-3)
    for beta in (0.1, 1.0):
        at_old = old.clone().requires_grad_()
        torch.testing.assert_close(torch.autograd.grad(nft(at_old, advantage, beta, 2.0).sum(), at_old)[0], plain)


def test_rows_are_images_with_fresh_noise_at_levels_of_the_whole_schedule(
    policy: FluxPolicy, flux_directory: Path
) -> None:
    learner = nft_learner(flux_directory)
    advantages, _, ends = groups_of(policy, learner)[0]
    assert ends[0].latents.shape == (1, 16, 32) and len(ends[0].log_probs) == 0
    schedule = policy.sigmas(1000)[:-1]
    (rows,) = noised_rows(ends, advantages.values, schedule, 3, 0)
    assert len(rows.s) == 12 and rows.advantage.tolist()[:4] == pytest.approx(list(advantages.values))
    for level in range(3):  # one noise level of each image in each third of the schedule
        part = rows.s[4 * level : 4 * level + 4]
        assert (
            float(schedule[333 * level]) + 0.01 >= part.max()
            and part.min() >= float(schedule[333 * (level + 1)]) - 0.01
        )
    clean = torch.cat([end.latents for end in ends]).repeat(3, 1, 1)
    s = rows.s[:, None, None]
    torch.testing.assert_close(rows.x, (1 - s) * clean + s * (rows.target + clean))
    noise = (rows.target + clean).flatten(1)
    assert float(torch.corrcoef(noise).fill_diagonal_(0).abs().max()) < 0.25
    initial = policy.initial_noise([torch.Generator().manual_seed(end.seed) for end in ends]).flatten(1)
    assert float(torch.corrcoef(torch.cat((noise[:4], initial)))[:4, 4:].abs().max()) < 0.25
    again = torch.cat([part.x for part in noised_rows(ends, advantages.values, schedule, 3, 5)])
    assert torch.equal(again, rows.x)


def test_the_published_weights_are_the_decayed_average(policy: FluxPolicy, flux_directory: Path) -> None:
    learner = nft_learner(flux_directory)
    before = learner.weights().lora
    iterate(learner, policy, 1)
    after, trained = learner.weights(), learner.policy.lora_state()
    assert after.version == 1
    for key, value in after.lora.items():
        np.testing.assert_allclose(value, 0.75 * before[key] + 0.25 * trained[key].numpy(), atol=1e-7)
    with learner.sampling():
        assert all(np.array_equal(after.lora[key], value) for key, value in learner.policy.lora_state().items())
    assert all(torch.equal(trained[key], value) for key, value in learner.policy.lora_state().items())


def test_a_resumed_learner_is_the_undisturbed_one(policy: FluxPolicy, flux_directory: Path) -> None:
    """Bit for bit: weights in training, weights that sample, and the std of the batch before."""
    settings = replace(SETTINGS, algorithm=replace(SETTINGS.algorithm, advantage_std_over="batch"))
    learner = nft_learner(flux_directory, settings)
    iterate(learner, policy, 1, 3.0)
    resumed = nft_learner(flux_directory, settings)
    resumed.load_state_dict(deepcopy(learner.state_dict()))
    for each in (learner, resumed):
        iterate(each, policy, 1)
    states = learner.state_dict(), resumed.state_dict()
    assert states[0]["score_std"] == states[1]["score_std"]
    for part in ("lora", "sampling_lora", "ema"):
        assert all(torch.equal(value, states[1][part][key]) for key, value in states[0][part].items())


def test_the_std_of_the_batch_before_divides_centred_scores(policy: FluxPolicy, flux_directory: Path) -> None:
    """Centred scores after a batch of std 4 have the gradient of advantages that are a quarter of them."""
    gradients: list[list[torch.Tensor]] = []
    group = groups_of(policy, nft_learner(flux_directory))[0]
    for std_over, divisor in (("batch", 1.0), ("group", 4.0)):
        algorithm = replace(SETTINGS.algorithm, advantage_std_over=std_over)
        learner = nft_learner(flux_directory, replace(SETTINGS, algorithm=algorithm))
        learner.optimizer_step(4.0)  # nothing was accumulated
        learner.optimizer_step(1e-4)  # all groups were skipped: no std
        values = tuple(value / divisor for value in group[0].values)
        learner.accumulate(replace(group[0], values=values), *group[1:])
        gradients.append([p.grad.clone() for p in learner.engine.parameters if p.grad is not None])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_a_sampler_with_other_weights_is_refused(policy: FluxPolicy, flux_directory: Path) -> None:
    learner = nft_learner(flux_directory)
    group = groups_of(policy, learner)[0]
    perturb_lora(policy, 0.05)
    ends = sample(policy, [group[1]] * 4, range(4), SamplingPlan.for_training(SETTINGS)).trajectories
    with pytest.raises(OffPolicyError, match=r"sampling_tolerance=0\.001, but they differ by"):
        learner.accumulate(group[0], group[1], list(ends))
    learner.accumulate(*group)


@pytest.mark.parametrize(
    ("algorithm", "nft", "fix"),
    [
        ({"objective": "nft", "kl_weight": 0.1}, {}, "set policy.algorithm.kl_form=velocity"),
        ({"objective": "nft", "ratio_norm": "grpo_guard"}, {}, "set policy.algorithm.ratio_norm=none"),
        ({"objective": "nft", "old_log_probs": "learner"}, {}, "set policy.algorithm.old_log_probs=sampler"),
        ({}, {"beta": 0.5}, "set policy.algorithm.objective=nft"),
        ({"objective": "nft"}, {"beta": 0.0}, "policy.nft.beta must be above 0"),
    ],
)
def test_settings_of_the_other_objective_are_refused(algorithm: Any, nft: Any, fix: str) -> None:
    with pytest.raises(SettingsError, match=fix):
        PolicySettings(algorithm=replace(PolicySettings().algorithm, **algorithm), nft=NftSettings(**nft))

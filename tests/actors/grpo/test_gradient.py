"""The optimizer's gradient equals that of the loss in docs/mathematics.md, in size as well as in direction.

AdamW's step does not depend on the size of a gradient, so no other test would notice a wrong factor. The reference is
written from the document alone: one (sample, step) pair at a time, in plain torch. It uses only the model of
actors/policy, and nothing of actors/grpo.
Axes: N kept samples of a group, K trained steps, S image tokens, C packed latent channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing

from actors.grpo.advantages import Advantages
from actors.grpo.learner import GrpoLearner
from actors.grpo.shared_noise import shared_replay_batches
from actors.grpo.shares import divide_groups
from actors.optim.torch_engine import OptimizerSettings, StepResult, TorchEngine, average_gradients
from actors.policy.flux import FluxPolicy
from actors.policy.plan import SamplingPlan
from actors.policy.sampler import sample
from actors.types import Conditioning, Trajectory
from conf.flux import FluxSettings
from conf.policy import AlgorithmSettings, LearnerSettings, PolicyOptimizerSettings, PolicySettings, SamplingSettings
from tests.support.ports import free_port
from tests.support.ranks import end_rank
from tests.support.tiny_flux import perturb_lora

Group = tuple[Advantages, Conditioning, list[Trajectory]]

FLUX = FluxSettings(
    height=32,
    width=32,
    max_sequence_length=4,
    lora_rank=4,
    lora_alpha=8,
    lora_targets=("x_embedder", "attn.to_q", "attn.to_v", "ff.net.2", "ff_context.net.2"),
)
"""4 image tokens. In these layers a small LoRA changes the velocity enough for ratios that are not near 1."""

GROUPS = 3  # of an optimizer step; the third is skipped
SETTINGS = PolicySettings(
    iterations=4,
    group_size=4,
    algorithm=AlgorithmSettings(top_k=0, base_regularizer_weight=0.0, advantage_std_over="group"),
    sampling=SamplingSettings(denoise_steps=4, window=0, noise_level=0.3),
    learner=LearnerSettings(replay_batch=5),
    optimizer=PolicyOptimizerSettings(lr=1e-3, warmup_iterations=1),
)
CLIP_RANGES = {"none": 5e-3, "grpo_guard": 3e-3}
KL_WEIGHTS = {"": 0.0, "flow_grpo": 20.0, "gaussian": 3.0, "velocity": 0.05}
"""By KL form. Large enough that no tolerance hides the KL term."""

TOLERANCE = 1e-4
"""Relative to the gradient's norm. The learner computes in float32, the reference in float64."""


class RecordingEngine(TorchEngine):
    """Keeps the gradient of each step, averaged over ranks and before it is clipped: [elements of the LoRA]."""

    def __init__(self, policy: FluxPolicy, settings: PolicySettings) -> None:
        constants = OptimizerSettings(
            settings.optimizer.betas, settings.optimizer.weight_decay, settings.optimizer.max_grad_norm
        )
        super().__init__(list(policy.trainable().values()), constants)
        self.recorded: list[torch.Tensor] = []

    def step(self, lr: float) -> StepResult:
        average_gradients(self.parameters)
        self.recorded.append(torch.cat([p.grad.flatten() for p in self.parameters if p.grad is not None]))
        return super().step(lr)


def settings_of(train_steps: int, kl_form: str, ratio_norm: str, steps: int, shared_noise: bool) -> PolicySettings:
    """Settings of an iteration with this many optimizer steps; `kl_form` "" is a loss without a KL term."""
    return replace(
        SETTINGS,
        prompts_per_iteration=GROUPS * steps,
        sampling=replace(SETTINGS.sampling, train_steps=train_steps, shared_initial_noise=shared_noise),
        algorithm=replace(
            SETTINGS.algorithm,
            kl_form=kl_form or "flow_grpo",
            kl_weight=KL_WEIGHTS[kl_form],
            ratio_norm=ratio_norm,
            clip_range=CLIP_RANGES[ratio_norm],
        ),
        optimizer=replace(SETTINGS.optimizer, steps_per_iteration=steps),
    )


def policy_of(directory: Path | str) -> FluxPolicy:
    """The policy that samples: its LoRA's B is not 0."""
    policy = FluxPolicy.from_pretrained(str(directory), FLUX, transformer_only=True)
    perturb_lora(policy, 0.1, seed=1)
    return policy


def groups_of(policy: FluxPolicy, settings: PolicySettings) -> list[Group]:
    """Groups of two optimizer steps. In each: one with four kept samples, one with two, and one that is skipped."""
    generator = torch.Generator().manual_seed(2)
    plan = SamplingPlan.for_training(
        replace(settings, algorithm=replace(settings.algorithm, ratio_norm="grpo_guard"))
    )  # without GRPO-Guard the means are not read
    groups: list[Group] = []
    for number in range(2 * GROUPS):
        kept = ((0, 1, 2, 3), (1, 3), ())[number % GROUPS]
        conditioning = Conditioning(torch.randn(4, 64, generator=generator), torch.randn(64, generator=generator))
        samples = sample(policy, [conditioning] * 4, range(10 * number, 10 * number + 4), plan, policy_version=-1)
        values = (1.5 * torch.randn(len(kept), generator=generator)).tolist()
        advantages = Advantages(kept, tuple(values), 4, 0, 0, 0.0, 1.0, "" if kept else "zero spread")
        groups.append((advantages, conditioning, [samples.trajectories[i] for i in kept]))
    return groups


@dataclass(frozen=True)
class Pair:
    """One kept sample at one trained step, and what the model predicts there."""

    trajectory: Trajectory
    step: int
    advantage: float
    velocity: torch.Tensor  # [S, C] float64, with a gradient
    base: torch.Tensor  # [S, C] float64, of the model without its LoRA

    @property
    def times(self) -> tuple[float, float]:
        """s and s'."""
        return float(self.trajectory.sigmas[self.step]), float(self.trajectory.sigmas[self.step + 1])

    def transition(self, velocity: torch.Tensor, a: float) -> tuple[torch.Tensor, float, float]:
        """Flow-SDE ("Steps"): mean [S, C], std and sigma_t."""
        s, s_next = self.times
        dt, x = s_next - s, self.trajectory.latents[self.step].double()
        sigma = a * math.sqrt(s / (1 - (s_next if s == 1 else s)))
        mean = x * (1 + sigma**2 * dt / (2 * s)) + velocity * (1 + sigma**2 * (1 - s) / (2 * s)) * dt
        return mean, sigma * math.sqrt(-dt), sigma

    def surrogate(self, settings: PolicySettings) -> tuple[torch.Tensor, bool]:
        """max(-A r, -A clip(r)) ("Loss", "Log-probability", "GRPO-Guard"), and whether the clip decides it."""
        mean, std, _ = self.transition(self.velocity, settings.sampling.noise_level)
        x_next = self.trajectory.latents[self.step + 1].double()
        log_p = (-((x_next - mean) ** 2) / (2 * std**2) - math.log(std) - math.log(math.sqrt(2 * math.pi))).mean()
        log_r = log_p - self.trajectory.log_probs[self.step].double()
        if settings.algorithm.ratio_norm == "grpo_guard":
            assert self.trajectory.means is not None
            old = self.trajectory.means[self.trajectory.train_steps.index(self.step)].double()
            log_r = std * (log_r + ((mean - old) ** 2 / (2 * std**2)).mean())
        r = log_r.exp()
        bounded = r.clamp(1 - settings.algorithm.clip_range, 1 + settings.algorithm.clip_range)
        plain, clipped = -self.advantage * r, -self.advantage * bounded
        s, s_next = self.times
        divisor = abs(s_next - s) if settings.algorithm.ratio_norm == "grpo_guard" else 1.0
        return torch.maximum(plain, clipped) / divisor, bool(clipped > plain)

    def kl(self, settings: PolicySettings) -> torch.Tensor:
        """The table of "KL"."""
        mean, std, sigma = self.transition(self.velocity, settings.sampling.noise_level)
        reference, _, _ = self.transition(self.base, settings.sampling.noise_level)
        match settings.algorithm.kl_form:
            case "flow_grpo":
                return ((mean - reference) ** 2).mean() / (2 * sigma**2)
            case "gaussian":
                return ((mean - reference) ** 2).mean() / (2 * std**2)
        return ((self.velocity - self.base) ** 2).mean()


def pairs_of(policy: FluxPolicy, group: Group) -> list[Pair]:
    """All N K pairs of a group, from one forward pass with the LoRA and one without."""
    advantages, conditioning, trajectories = group
    indices = [(n, step) for n in range(len(trajectories)) for step in trajectories[n].train_steps]
    if not indices:
        return []
    x = torch.stack([trajectories[n].latents[step] for n, step in indices])
    s = torch.stack([trajectories[n].sigmas[step] for n, step in indices])
    rows = policy.batch_conditioning([conditioning] * len(indices))
    velocity = policy.velocity(x, s, rows).double()
    with policy.base(), torch.no_grad():
        base = policy.velocity(x, s, rows).double()
    return [
        Pair(trajectories[n], step, advantages.values[n], velocity[i], base[i]) for i, (n, step) in enumerate(indices)
    ]


def reference(
    policy: FluxPolicy, groups: Sequence[Group], settings: PolicySettings
) -> tuple[torch.Tensor, list[bool], float]:
    """The documented gradient of one optimizer step, which pairs are clipped, and the KL term's share of the norm."""
    surrogates, kls, clipped = [], [], []
    for group in groups:
        pairs = pairs_of(policy, group)
        outcomes = [pair.surrogate(settings) for pair in pairs]
        clipped += [decided for _, decided in outcomes]
        if pairs:  # a skipped group counts as zero
            surrogates.append(torch.stack([loss for loss, _ in outcomes]).mean())
            kls.append(torch.stack([pair.kl(settings) for pair in pairs]).mean())
    parameters = list(policy.trainable().values())
    flat = [
        torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters, retain_graph=True)])
        for loss in (torch.stack(surrogates).sum() / len(groups), torch.stack(kls).sum() / len(groups))
    ]
    gradient = flat[0] + settings.algorithm.kl_weight * flat[1]
    return gradient, clipped, float(settings.algorithm.kl_weight * flat[1].norm() / gradient.norm())


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert float((actual - expected).norm()) <= TOLERANCE * float(expected.norm())


Sampled = dict[tuple[int, bool], list[Group]]


@pytest.fixture(scope="module")
def sampled(flux_directory: Path) -> Sampled:
    """(K, shared initial noise) -> groups of two optimizer steps, all by the same weights."""
    policy = policy_of(flux_directory)
    return {
        (k, shared): groups_of(policy, settings_of(k, "", "none", 1, shared))
        for k in (1, 2)
        for shared in (False, True)
    }


@pytest.fixture(scope="module")
def shared_policy(flux_directory: Path) -> FluxPolicy:
    """Built once, because building takes longer than a test."""
    return policy_of(flux_directory)


@pytest.fixture
def policy(shared_policy: FluxPolicy) -> Iterator[FluxPolicy]:
    """The weights that sampled. They are restored after each test."""
    before = {key: value.clone() for key, value in shared_policy.lora_state().items()}
    yield shared_policy
    shared_policy.load_lora(before)


@pytest.mark.parametrize("shared_noise", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("ratio_norm", ["none", "grpo_guard"])
@pytest.mark.parametrize("kl_form", ["", "flow_grpo", "gaussian", "velocity"])
@pytest.mark.parametrize("train_steps", [1, 2])
def test_the_gradient_is_that_of_the_documented_loss(
    policy: FluxPolicy,
    sampled: Sampled,
    train_steps: int,
    kl_form: str,
    ratio_norm: str,
    steps: int,
    shared_noise: bool,
) -> None:
    """Off-policy: the LoRA has changed since sampling, so some ratios are clipped and some are not."""
    settings = settings_of(train_steps, kl_form, ratio_norm, steps, shared_noise)
    perturb_lora(policy, 0.1, seed=3)
    engine = RecordingEngine(policy, settings)
    learner, clipped = GrpoLearner(policy, engine, settings), []
    for step in range(steps):
        groups = sampled[train_steps, shared_noise][step * GROUPS : (step + 1) * GROUPS]
        expected, clips, kl_share = reference(policy, groups, settings)
        for group in groups:
            learner.accumulate(*group)
        metrics = learner.optimizer_step()
        assert metrics.applied and metrics.clip_fraction == pytest.approx(sum(clips) / len(clips))
        assert_close(engine.recorded[step], expected)
        assert kl_share > 0.05 if kl_form else kl_share == 0
        clipped += clips
    assert {True, False} == set(clipped)


@pytest.mark.parametrize("ratio_norm", ["none", "grpo_guard"])
@pytest.mark.parametrize("train_steps", [1, 2])
def test_the_gradient_of_the_weights_that_sampled(
    policy: FluxPolicy, sampled: Sampled, train_steps: int, ratio_norm: str
) -> None:
    """On-policy: every ratio is 1, and the gradient is the policy gradient."""
    settings = settings_of(train_steps, "", ratio_norm, 1, True)
    engine = RecordingEngine(policy, settings)
    learner = GrpoLearner(policy, engine, settings)
    groups = sampled[train_steps, True][:GROUPS]
    expected, clips, _ = reference(policy, groups, settings)
    for group in groups:
        learner.accumulate(*group)
    assert learner.optimizer_step().ratio_mean == pytest.approx(1.0, abs=1e-5) and not any(clips)
    assert_close(engine.recorded[0], expected)


def run_rank(rank: int, port: int, model: str, folder: str) -> torch.Tensor:
    """One of two learner ranks, with its share of the groups. Returns the gradient of its optimizer step."""
    torch.distributed.init_process_group(
        "gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=timedelta(seconds=200)
    )
    try:
        settings, groups = torch.load(f"{folder}/groups.pt", weights_only=False)
        policy = policy_of(model)
        perturb_lora(policy, 0.1, seed=3)
        engine = RecordingEngine(policy, settings)
        learner = GrpoLearner(policy, engine, settings)
        for share in divide_groups(len(groups), ranks=2)[rank]:
            learner.accumulate(*groups[share.group], share.part)
        learner.optimizer_step()
    finally:
        torch.distributed.destroy_process_group()
    return engine.recorded[0]


def run_second_rank(_: int, *arguments: Any) -> None:
    """Rank 1 in its own process. Rank 0 is the test's process, because a new process takes longer than the test."""
    torch.set_num_threads(1)
    run_rank(1, *arguments)
    end_rank()


def test_two_ranks_have_the_gradient_of_all_their_groups(
    policy: FluxPolicy, sampled: Sampled, flux_directory: Path, tmp_path: Path
) -> None:
    """The gradient depends neither on the number of ranks nor on how unequal their work is.

    The group that is left over has two passes, one for each rank.
    """
    settings = settings_of(2, "flow_grpo", "none", 1, True)
    settings = replace(settings, learner=replace(settings.learner, replay_batch=3))  # of five distinct latents
    groups = [sampled[2, True][index] for index in (1, 2, 0)]
    passes = list(shared_replay_batches(groups[2][2], groups[2][0].values, settings.learner.replay_batch))
    assert len(groups) == GROUPS == 3 and len(passes) == 2
    torch.save((settings, groups), tmp_path / "groups.pt")
    arguments = (free_port(), str(flux_directory), str(tmp_path))
    second = multiprocessing.spawn(run_second_rank, args=arguments, nprocs=1, join=False)
    assert second is not None
    actual = run_rank(0, *arguments)
    assert second.join(timeout=60)
    perturb_lora(policy, 0.1, seed=3)
    expected, _, _ = reference(policy, groups, settings)
    assert_close(actual, expected)

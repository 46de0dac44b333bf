"""docs/grpo_in_one_file.py runs, and its visible loss is the learner's."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from actors.grpo.advantages import group_advantages
from actors.grpo.learner import GrpoLearner
from actors.policy.base import Policy
from actors.policy.registry import load_policy
from conf.flux import FluxSettings
from conf.policy import AlgorithmSettings, PolicyOptimizerSettings, PolicySettings, SamplingSettings
from pipelines.scenes import checkpoints_dir
from pipelines.scenes.grammar import training_prompts
from tests.support.learner import torch_engine
from tests.support.tiny_flux import perturb_lora

FILE = Path(__file__).parents[3] / "docs" / "grpo_in_one_file.py"


@pytest.fixture
def one_file() -> ModuleType:
    """The file as a module."""
    spec = importlib.util.spec_from_file_location("grpo_in_one_file", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def embedded() -> Policy:
    """The embedded model with a LoRA that has an effect."""
    policy = load_policy(str(checkpoints_dir("flux")), FluxSettings())
    perturb_lora(policy, 0.02)
    return policy


def test_it_runs_and_prints_the_reward_of_each_iteration(
    one_file: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(one_file, "PROMPTS", 2)
    monkeypatch.setattr(sys, "argv", ["grpo_in_one_file.py", "--iterations", "2"])
    one_file.main()
    lines = capsys.readouterr().out.splitlines()
    rewards = [float(re.fullmatch(r"iteration \d  reward (\S+)  clipped \S+%  kl \S+", line)[1]) for line in lines]  # type: ignore[index]
    assert len(rewards) == 2 and all(0.3 < reward <= 1 for reward in rewards)
    assert all(0 < float(line.split()[-1]) < 1e-3 for line in lines)  # the policy leaves its base, slowly


def test_its_gradient_is_the_learners(one_file: ModuleType, embedded: Policy) -> None:
    """The same group in `step_loss` and in GrpoLearner, with the file's settings."""
    (prompt,) = training_prompts(1, 0, 1.0)
    group = one_file.collect_group(embedded, one_file.RulesReward(), prompt, range(one_file.GROUP_SIZE))
    settings = PolicySettings(
        prompts_per_iteration=1,
        algorithm=AlgorithmSettings(
            top_k=one_file.TOP_K,
            clip_range=one_file.CLIP_RANGE,
            kl_weight=one_file.KL_WEIGHT,
            advantage_std_over="group",
            base_regularizer_weight=0.0,
        ),
        sampling=SamplingSettings(
            noise_level=one_file.NOISE_LEVEL, window=0, train_steps=3, shared_initial_noise=False
        ),
        optimizer=PolicyOptimizerSettings(steps_per_iteration=1),
    )
    learner = GrpoLearner(embedded, torch_engine(embedded, settings), settings)
    advantages = group_advantages(group.scores, settings.algorithm)
    np.testing.assert_allclose(group.advantages, advantages.values, rtol=1e-6)
    learner.accumulate(advantages, group.conditioning, group.trajectories)
    theirs = torch.cat([p.grad.flatten() for p in learner.engine.parameters if p.grad is not None])
    embedded.transformer.zero_grad()
    for t in one_file.PLAN.train_steps:
        (one_file.step_loss(embedded, group, t).loss / 3).backward()
    ours = torch.cat([p.grad.flatten() for p in learner.engine.parameters if p.grad is not None])
    assert theirs.norm() > 0
    assert (ours - theirs).norm() < 1e-3 * theirs.norm()


def test_an_optimizer_step_makes_the_best_images_more_likely(one_file: ModuleType, embedded: Policy) -> None:
    """The log-ratio after the step has the sign of the advantage, in the mean over images and denoise steps."""
    (prompt,) = training_prompts(1, 0, 1.0)
    group = one_file.collect_group(embedded, one_file.RulesReward(), prompt, range(one_file.GROUP_SIZE))
    optimizer = torch.optim.AdamW(embedded.trainable().values(), lr=1e-4)
    before = one_file.optimizer_step(embedded, optimizer, [group])
    assert all((term.ratio - 1).abs().max() < 1e-5 for term in before)
    with torch.no_grad():
        after = [one_file.step_loss(embedded, group, t) for t in one_file.PLAN.train_steps]
    assert sum(float((group.advantages * term.ratio.log()).mean()) for term in after) > 0
    assert any((term.ratio - 1).abs().max() > one_file.CLIP_RANGE for term in after)

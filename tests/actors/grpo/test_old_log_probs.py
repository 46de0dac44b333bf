"""Old log-probabilities that the learner computes: the sampler's rounding no longer matters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from actors.grpo.learner import GrpoLearner
from actors.policy.flux import FluxPolicy
from conf import SettingsError
from conf.policy import LearnerSettings, PolicySettings
from tests.support.learner import SETTINGS, groups_of, learner_of
from tests.support.tiny_flux import perturb_lora


def iteration(
    policy: FluxPolicy, directory: Path, old_log_probs: Literal["sampler", "learner"], ratio_norm: Any, error: float
) -> tuple[GrpoLearner, list[float]]:
    """Two optimizer steps, after which the LoRA is far from its start. The sampler's log-probabilities are off."""
    settings = replace(
        SETTINGS,
        algorithm=replace(SETTINGS.algorithm, old_log_probs=old_log_probs, ratio_norm=ratio_norm, kl_weight=0.1),
        optimizer=replace(SETTINGS.optimizer, steps_per_iteration=2, lr=1e-2, warmup_iterations=1),
    )
    learner = learner_of(directory, settings)
    perturb_lora(learner.policy, 0.05)
    ratios: list[float] = []
    for group in groups_of(policy, learner):
        sampled = [replace(row, log_probs=row.log_probs + error) for row in group.trajectories]
        learner.accumulate(group.advantages, group.conditioning, sampled)
        ratios.append(learner.optimizer_step().ratio_mean)
    learner.end_iteration()
    return learner, ratios


@pytest.mark.parametrize("ratio_norm", ["none", "grpo_guard"])
def test_they_equal_those_of_an_exact_sampler_bit_for_bit(
    policy: FluxPolicy, flux_directory: Path, ratio_norm: str
) -> None:
    """Also at the second optimizer step, whose samples are older than the weights."""
    exact, expected = iteration(policy, flux_directory, "sampler", ratio_norm, 0.0)
    learner, ratios = iteration(policy, flux_directory, "learner", ratio_norm, 0.01)
    assert ratios == expected and ratios[0] == 1.0 != ratios[1]
    lora = exact.weights().lora
    assert all(np.array_equal(value, lora[key]) for key, value in learner.weights().lora.items())


def test_runs_that_the_learner_cannot_compute_them_for_are_refused() -> None:
    algorithm = replace(PolicySettings().algorithm, old_log_probs="learner")
    with pytest.raises(SettingsError, match=r"needs policy\.max_staleness=0, got 1"):
        PolicySettings(algorithm=algorithm, max_staleness=1)
    with pytest.raises(SettingsError, match=r"needs policy\.learner\.zero_stage=1 or 2, got 3"):
        PolicySettings(algorithm=algorithm, learner=LearnerSettings(engine="deepspeed", zero_stage=3))

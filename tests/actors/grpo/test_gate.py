"""The on-policy gate."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.grpo.gate import OffPolicyError, OnPolicyGate
from actors.policy.flux import FluxPolicy
from tests.support.learner import groups_of, learner_of


def test_the_gate_names_the_denoise_step_that_drifted(policy: FluxPolicy, flux_directory: Path) -> None:
    learner = learner_of(flux_directory)
    group = groups_of(policy, learner)[0]
    log_probs = group.trajectories[1].log_probs.clone()
    log_probs[1] += 1e-3
    group.trajectories[1] = replace(group.trajectories[1], log_probs=log_probs)
    group.add_to(learner)
    before = learner.weights().lora
    with pytest.raises(OffPolicyError, match=r"got 0\.001 at denoise step 1 \(step 0: 0, step 1: 0\.001\)") as refusal:
        learner.optimizer_step()
    noise_floor = float(re.findall(r"rounding alone causes is ([\d.e-]+) ", str(refusal.value))[0])
    assert 0 <= noise_floor < 1e-5, "of replays in two batch shapes"
    assert re.search("more than rounding.*the same model.*old_log_probs=learner.*ratio_tolerance", str(refusal.value))
    assert all(np.array_equal(value, before[key]) for key, value in learner.weights().lora.items())


def test_stale_samples_do_not_fail_the_gate(policy: FluxPolicy, flux_directory: Path) -> None:
    learner = learner_of(flux_directory)
    group = groups_of(policy, learner)[0]
    stale = [replace(row, policy_version=-1, log_probs=row.log_probs + 1e-3) for row in group.trajectories]
    learner.accumulate(group.advantages, group.conditioning, stale)
    metrics = learner.optimizer_step()
    assert metrics.applied and np.isnan(metrics.ratio_drift)
    assert not learner.gate.passed


def test_the_gate_is_checked_once_and_then_only_measures() -> None:
    gate = OnPolicyGate(tolerance=0.1, denoise_steps=3, device=torch.device("cpu"))
    assert np.isnan(gate.check()) and not gate.passed
    gate.record(torch.tensor([1.05, 0.95, 1.0]), torch.tensor([0, 2, 0]))
    assert gate.check() == pytest.approx(0.05) and gate.passed
    gate.reset()
    gate.record(torch.tensor([0.5, 1.2]), torch.tensor([1, 1]))
    assert gate.check() == pytest.approx(0.5)
    gate.reset()
    assert np.isnan(gate.check())
    gate.record(torch.tensor([1.01]), torch.tensor([2]))
    assert gate.check() == pytest.approx(0.01)  # not that of an earlier optimizer step


def test_a_ratio_that_is_not_a_number_fails_the_gate() -> None:
    gate = OnPolicyGate(tolerance=0.1, denoise_steps=2, device=torch.device("cpu"))
    gate.record(torch.tensor([float("nan")]), torch.tensor([1]))
    with pytest.raises(OffPolicyError, match=r"got nan at denoise step 1 \(step 1: nan\).* was not measured"):
        gate.check()


def test_a_drift_as_small_as_the_noise_floor_is_called_rounding() -> None:
    gate = OnPolicyGate(tolerance=1e-5, denoise_steps=2, device=torch.device("cpu"))
    gate.record(torch.tensor([1.00005]), torch.tensor([0]))
    with pytest.raises(OffPolicyError, match=r"causes is 2e-05 .*, so this is rounding\. Fixes, in this order: policy"):
        gate.check(lambda: 2e-5)

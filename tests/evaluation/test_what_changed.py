"""What else changed: paired differences of what the trained reward does not see, and the verdict."""

from __future__ import annotations

import numpy as np

from pipelines.evaluation.what_changed import what_changed
from tests.support.evaluated_run import EvaluatedRun, blurred_policy


def test_a_policy_whose_images_are_soft_is_found_only_if_the_trained_reward_rose(run: EvaluatedRun) -> None:
    changes = blurred_policy(run, reward=1.0)
    verdicts = {each.row.name: each.verdict for each in changes.measures}
    assert verdicts["sharpness"] == "fell by more than 0.5 std" and verdicts["fully correct"] == "no clear change"
    assert changes.verdict.startswith("The trained reward rose while this fell: ") and "sharpness" in changes.verdict
    assert blurred_policy(run, reward=-1.0).verdict == "The trained reward did not rise."


def test_differences_are_paired_and_values_that_are_missing_are_left_out() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=200)
    prompts = [str(number // 2) for number in range(200)]
    mine = {"base": np.append(base, np.nan), "policy": np.append(base + 0.1, 5.0)}
    reward = {"base": np.zeros(200), "policy": np.ones(200)}
    found = what_changed(reward, {"mine": mine}, {"reward": prompts, "mine": [*prompts, "200"]}, seed=0)
    assert found is not None and found.verdict.endswith("no measure fell by more than 0.5 standard deviations.")
    (only,) = found.measures
    assert (only.row.count, only.verdict) == (200, "rose")
    assert abs(only.row.difference.high - only.row.difference.low) < 1e-9 < only.row.base.high - only.row.base.low
    assert abs(only.fall + 0.1 / base.std()) < 1e-6


def test_a_measure_without_any_pair_has_no_row() -> None:
    empty = {"base": np.array([np.nan]), "policy": np.array([1.0])}
    known = {"base": np.array([0.0]), "policy": np.array([1.0])}
    found = what_changed(known, {"mine": empty}, {"reward": ["a"], "mine": ["a"]}, seed=0)
    assert found is not None and not found.measures and found.unmeasured == ("mine",)
    assert what_changed(empty, {"mine": known}, {"reward": ["a"], "mine": ["a"]}, seed=0) is None

from __future__ import annotations

from typing import Any

import pytest

from actors.policy.plan import SamplingPlan, first_untrained_step
from conf.evaluation import EvaluationSettings
from conf.policy import AlgorithmSettings, PolicySettings, SamplingSettings


def policy_settings(**sampling: Any) -> PolicySettings:
    return PolicySettings(sampling=SamplingSettings(**{"denoise_steps": 6, "window": 0, **sampling}))


def test_all_steps_but_the_last_draw_noise_and_the_first_are_trained() -> None:
    plan = SamplingPlan.for_training(policy_settings(train_steps=3))
    assert (plan.noise_steps, plan.train_steps) == ((0, 1, 2, 3, 4), (0, 1, 2))


def test_the_last_step_can_draw_noise_except_with_cps() -> None:
    flow_sde = SamplingPlan.for_training(policy_settings(clean_steps=0, train_steps=0))
    assert flow_sde.noise_steps == flow_sde.train_steps == (0, 1, 2, 3, 4, 5)
    cps = SamplingPlan.for_training(policy_settings(transition="cps", clean_steps=0, train_steps=0))
    assert cps.train_steps == (0, 1, 2, 3, 4) and cps.transition == "cps"


def test_a_training_plan_has_the_values_of_the_settings() -> None:
    settings = PolicySettings(
        group_size=24,
        sampling=SamplingSettings(denoise_steps=8, noise_level=0.4, batch=12, shared_initial_noise=True),
        algorithm=AlgorithmSettings(ratio_norm="grpo_guard"),
    )
    plan = SamplingPlan.for_training(settings)
    assert (plan.denoise_steps, plan.noise_level, plan.max_batch) == (8, 0.4, 12)
    assert (plan.keep_means, plan.images_per_noise) == (True, 24)
    plan = SamplingPlan.for_training(policy_settings(shared_initial_noise=False))
    assert (plan.keep_means, plan.images_per_noise) == (False, 1)


def test_an_evaluation_plan_draws_no_noise() -> None:
    plan = SamplingPlan.for_evaluation(EvaluationSettings(denoise_steps=28), max_batch=4)
    assert plan == SamplingPlan(denoise_steps=28, max_batch=4)
    assert plan.noise_steps == plan.train_steps == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"denoise_steps": 0}, "denoise_steps must be at least 1, got 0"),
        ({"noise_steps": (0,)}, "noise_level is 0.0: make it positive"),
        ({"images_per_noise": 2}, "without a noisy step"),
        ({"noise_level": 0.5, "noise_steps": (0,), "train_steps": (1,)}, "trained steps must draw noise"),
        ({"noise_level": 0.5, "noise_steps": (2,)}, r"noisy steps must lie in 0\.\.1, got \(2,\)"),
        ({"noise_level": 0.5, "noise_steps": (-1,)}, r"noisy steps must lie in 0\.\.1, got \(-1,\)"),
        (
            {"transition": "cps", "noise_level": 0.5, "noise_steps": (0, 1), "train_steps": (1,)},
            "the last CPS step draws no noise",
        ),
    ],
)
def test_impossible_plans_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingPlan(**{"denoise_steps": 2, **fields})


@pytest.mark.parametrize(
    ("sampling", "first"),
    [
        ({"window": 3, "window_position": "sliding"}, 5),
        ({"window": 3, "window_position": "random"}, 5),
        ({"denoise_steps": 3, "window": 1, "window_position": "sliding"}, 2),
        ({"window": 3, "transition": "cps", "clean_steps": 0}, 5),
        ({"window": 3, "window_position": "first"}, 3),
        ({"train_steps": 2}, 2),
        ({"train_steps": 0}, 5),
        ({"train_steps": 0, "clean_steps": 3}, 3),
        ({"train_steps": 0, "clean_steps": 0}, 6),
    ],
)
def test_the_first_untrained_step(sampling: dict[str, Any], first: int) -> None:
    assert first_untrained_step(policy_settings(**sampling)) == first

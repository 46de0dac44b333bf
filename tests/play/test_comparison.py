"""The replica that samples for a person: plain diffusers' images, progress, and an end if nobody waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from actors.policy.comparison import Comparison, ComparisonSampler
from actors.policy.flux import FluxPolicy
from actors.policy.plan import SamplingPlan
from actors.reward_input import InputError
from actors.workers.comparison import ComparisonReplica
from tests.support.tiny_flux import flux_directory, perturb_lora, policy

__all__ = ["flux_directory", "policy"]
TEXT, STEPS = "a red circle left of a blue square", 3


def _replica(policy: FluxPolicy) -> Any:
    replica = ComparisonReplica.__new__(ComparisonReplica)
    replica._sampler = ComparisonSampler(policy, SamplingPlan(denoise_steps=STEPS))
    return replica


def _plain(policy: FluxPolicy, seed: int) -> np.ndarray:
    """What the pipeline itself makes, with whatever LoRA is on."""
    policy.pipeline.set_progress_bar_config(disable=True)
    arguments = {"height": 64, "width": 64, "num_inference_steps": STEPS, "max_sequence_length": 24}
    image: Image.Image = policy.pipeline(TEXT, generator=torch.Generator().manual_seed(seed), **arguments).images[0]
    return np.asarray(image)


def test_both_images_are_those_of_the_plain_pipeline_with_the_lora_off_and_on(policy: FluxPolicy) -> None:
    perturb_lora(policy, 0.5)

    async def scenario() -> list[float | Comparison]:
        return [part async for part in _replica(policy).sample(TEXT, 11)]

    *done, both = asyncio.run(scenario())
    assert done == pytest.approx([(i + 1) / (2 * STEPS) for i in range(2 * STEPS)])
    assert isinstance(both, Comparison)
    assert np.array_equal(both.tuned, _plain(policy, 11))
    with policy.base():
        assert np.array_equal(both.base, _plain(policy, 11))
    assert not np.array_equal(both.base, both.tuned)


def test_sampling_ends_after_a_denoise_step_if_the_caller_leaves(policy: FluxPolicy) -> None:
    async def scenario() -> None:
        replica, steps = _replica(policy), list[int]()
        velocity = policy.velocity

        def counted(*arguments: Any) -> torch.Tensor:
            steps.append(1)
            return velocity(*arguments)

        policy.velocity = counted  # pyright: ignore[reportAttributeAccessIssue]
        parts: AsyncGenerator[Any] = replica.sample(TEXT, 1)
        await anext(parts)
        await parts.aclose()
        with replica._sampler._one_at_a_time:  # the abandoned call has ended
            assert 1 <= len(steps) < 2 * STEPS
        assert isinstance([part async for part in replica.sample(TEXT, 1)][-1], Comparison)

    asyncio.run(scenario())


def test_a_text_that_would_be_cut_off_is_refused(policy: FluxPolicy) -> None:
    with pytest.raises(InputError, match=r"reads 24 tokens.*this prompt has \d+: shorten it"):
        ComparisonSampler(policy, SamplingPlan(STEPS)).check("a red circle " * 9)

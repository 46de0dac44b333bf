"""The frozen LoRA that takes the place of the base in the terms of the loss that keep the policy near its start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from actors.policy.flux import FluxPolicy
from conf.flux import FluxSettings
from tests.support.tiny_flux import TEXTS, perturb_lora

VARIANTS = [
    {},
    {"checkpoint_every": 1},
    {"dtype": "bfloat16", "checkpoint_every": 2},
    pytest.param({"compile": True, "checkpoint_every": 2}, marks=pytest.mark.slow),  # compiling takes a minute
    pytest.param({"compile": True, "dtype": "bfloat16"}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("settings", VARIANTS)
def test_the_distance_to_the_reference_is_that_to_a_policy_that_did_not_learn(
    flux_directory: Path, settings: dict[str, Any]
) -> None:
    """Its gradient too: the policy's graph, which was recorded first, keeps the policy's own weights."""
    policy, start = (FluxPolicy.from_pretrained(str(flux_directory), FluxSettings(**settings)) for _ in range(2))
    perturb_lora(start, 0.1)
    policy.load_lora(start.lora_state())
    policy.freeze_reference()
    perturb_lora(policy, 0.1, seed=1)
    x, s = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0)), torch.full((2,), 0.8)
    rows = policy.batch_conditioning(policy.encode(TEXTS))
    gradients: list[list[torch.Tensor]] = []
    for other, context in ((policy, policy.reference()), (start, torch.no_grad())):
        velocity = policy.velocity(x, s, rows)
        with torch.no_grad(), context:
            target = other.velocity(x, s, rows)
        (velocity - target).square().mean().backward()
        assert (velocity - target).abs().max() > 0.01
        gradients.append([p.grad.clone() for p in policy.trainable().values() if p.grad is not None])
        policy.transformer.zero_grad()
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True)) and len(gradients[0]) > 10


def test_without_a_frozen_lora_the_reference_is_the_base(policy: FluxPolicy) -> None:
    perturb_lora(policy, 0.1)
    x, s = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(0)), torch.full((1,), 0.8)
    rows = policy.batch_conditioning(policy.encode(TEXTS[:1]))
    with torch.no_grad(), policy.base():
        base = policy.velocity(x, s, rows)
    with torch.no_grad(), policy.reference():
        assert torch.equal(policy.velocity(x, s, rows), base)

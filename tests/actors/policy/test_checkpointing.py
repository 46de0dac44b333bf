"""Activation checkpointing: which blocks are computed twice, and that the gradient stays the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from actors.policy.flux import FluxPolicy
from conf.flux import FluxSettings
from tests.support.tiny_flux import TEXTS, perturb_lora


def gradients(directory: Path, every: int) -> tuple[list[torch.Tensor], int]:
    """The LoRA's gradient of one pass, and how many blocks were computed (the tiny FLUX has four)."""
    policy = FluxPolicy.from_pretrained(str(directory), FluxSettings(checkpoint_every=every))
    perturb_lora(policy, 0.1)
    calls: list[int] = []
    for block in (*policy.transformer.transformer_blocks, *policy.transformer.single_transformer_blocks):
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    x = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0))
    rows = policy.batch_conditioning(policy.encode(TEXTS))
    policy.velocity(x, torch.full((2,), 0.8), rows).square().mean().backward()
    return [p.grad for p in policy.trainable().values() if p.grad is not None], len(calls)


@pytest.mark.parametrize(("every", "computed"), [(0, 4), (1, 8), (2, 6), (3, 6), (9, 5)])
def test_every_nth_block_is_computed_twice(flux_directory: Path, every: int, computed: int) -> None:
    plain, calls = gradients(flux_directory, 0)
    checkpointed, checkpointed_calls = gradients(flux_directory, every)
    assert (calls, checkpointed_calls) == (4, computed)
    assert all(torch.equal(one, other) for one, other in zip(plain, checkpointed, strict=True))

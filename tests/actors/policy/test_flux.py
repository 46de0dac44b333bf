from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.policy.flux import FluxPolicy
from conf.flux import FluxSettings
from tests.support.tiny_flux import TEXTS, perturb_lora


def policy_at(directory: Path, size: int, vae_decoding: str) -> FluxPolicy:
    """A policy for images of size x size pixels."""
    settings = FluxSettings(model=str(directory), height=size, width=size, vae_decoding=vae_decoding)  # type: ignore[arg-type]
    return FluxPolicy.from_pretrained(str(directory), settings)


def test_decoding_in_slices_and_tiles(flux_directory: Path) -> None:
    """Sliced images equal batched ones. The first tile of a tiled image equals a smaller image of the same latents."""
    latents = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(0))
    whole = policy_at(flux_directory, 128, "batch").decode(latents).astype(int)
    sliced = policy_at(flux_directory, 128, "sliced").decode(latents).astype(int)
    np.testing.assert_allclose(sliced, whole, atol=1)
    tiled = policy_at(flux_directory, 128, "tiled").decode(latents).astype(int)
    corner = latents.unflatten(1, (8, 8))[:, :4, :4].flatten(1, 2)
    alone = policy_at(flux_directory, 64, "batch").decode(corner).astype(int)
    np.testing.assert_allclose(tiled[:, :48, :48], alone[:, :48, :48], atol=1)  # the last quarter blends into the next
    assert np.abs(tiled - whole).max() > 8


def test_a_policy_without_encoders_has_the_same_velocity(policy: FluxPolicy, flux_directory: Path) -> None:
    learner = FluxPolicy.from_pretrained(str(flux_directory), policy.settings, transformer_only=True)
    assert learner.pipeline.vae is None and learner.pipeline.text_encoder is None
    rows = policy.batch_conditioning(policy.encode(TEXTS))
    x, s = torch.randn(2, 16, 32), torch.tensor([0.9, 0.5])
    with torch.no_grad():
        assert torch.equal(policy.velocity(x, s, rows), learner.velocity(x, s, rows))


def test_the_base_is_frozen_and_comes_back(policy: FluxPolicy) -> None:
    """Inside `base()` the LoRA has no effect; after an exception in it, it has."""
    rows = policy.batch_conditioning(policy.encode(TEXTS[:1]))
    x, s = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0.9])
    untrained = policy.velocity(x, s, rows)
    perturb_lora(policy, 0.2)
    trained = policy.velocity(x, s, rows)
    with policy.base():
        base = policy.velocity(x, s, rows)
    with suppress(KeyError), policy.base():
        raise KeyError
    assert torch.equal(base, untrained)
    assert torch.equal(policy.velocity(x, s, rows), trained) and not torch.equal(trained, untrained)
    assert {name for name, p in policy.transformer.named_parameters() if p.requires_grad} == set(policy.trainable())


@pytest.mark.slow
def test_a_compiled_policy_predicts_and_learns_the_same(policy: FluxPolicy, flux_directory: Path) -> None:
    """The velocity of base and LoRA, and the LoRA's gradient. Compiling takes minutes on a busy machine."""
    compiled = FluxPolicy.from_pretrained(str(flux_directory), FluxSettings(model=str(flux_directory), compile=True))
    latents, s = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0)), torch.full((2,), 0.8)
    measured: list[list[torch.Tensor]] = []
    for candidate in (policy, compiled):
        perturb_lora(candidate, 0.05)
        rows = candidate.batch_conditioning(candidate.encode(TEXTS))
        velocity = candidate.velocity(latents, s, rows)
        velocity.square().mean().backward()
        with torch.no_grad(), candidate.base():
            base = candidate.velocity(latents, s, rows)
        gradients = [parameter.grad for parameter in candidate.trainable().values() if parameter.grad is not None]
        measured.append([velocity.detach(), base, *gradients])
    assert compiled.transformer.transformer_blocks[0]._compiled_call_impl is not None
    assert (measured[0][0] - measured[0][1]).abs().max() > 0.01  # the LoRA has an effect
    for plain, other in zip(*measured, strict=True):
        torch.testing.assert_close(plain, other, atol=1e-5, rtol=1e-3)

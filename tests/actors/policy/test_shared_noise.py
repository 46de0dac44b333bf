"""Images of a group that start from the same noise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from actors.policy.flux import FluxPolicy
from actors.policy.plan import SamplingPlan
from actors.policy.sampler import sample
from tests.support.tiny_flux import TEXTS

SHARED_BY_TWO = SamplingPlan(
    denoise_steps=4, noise_level=0.7, noise_steps=(1, 2), train_steps=(1, 2), images_per_noise=2
)
SHARED_BY_THREE = replace(SHARED_BY_TWO, images_per_noise=3)


def test_the_images_of_a_group_are_equal_until_the_first_noisy_step(policy: FluxPolicy) -> None:
    """A window in the middle: one path up to its first step, different paths after it, each with its seed's noise."""
    conditioning = policy.encode(TEXTS[:1]) * 3
    group = sample(policy, conditioning, [7, 8, 9], SHARED_BY_THREE).trajectories
    for other in group[1:]:
        assert torch.equal(other.latents[:2], group[0].latents[:2])
        assert not torch.equal(other.latents[2], group[0].latents[2])
    alone = sample(policy, conditioning[:1], [7], replace(SHARED_BY_THREE, images_per_noise=1)).trajectories[0]
    torch.testing.assert_close(alone.latents, group[0].latents, atol=1e-5, rtol=0)
    torch.testing.assert_close(alone.log_probs, group[0].log_probs, atol=1e-5, rtol=1e-4)
    halves = sample(policy, conditioning, [7, 8, 9], replace(SHARED_BY_THREE, max_batch=2)).trajectories
    torch.testing.assert_close(halves[2].latents, group[2].latents, atol=1e-5, rtol=0)
    part = sample(policy, conditioning[:1], [9], replace(SHARED_BY_THREE, max_batch=2), noise_seed=7).trajectories[0]
    assert torch.equal(part.latents, halves[2].latents) and torch.equal(part.log_probs, halves[2].log_probs)


def test_shared_steps_are_one_forward_pass_of_one_row(policy: FluxPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    velocity = policy.velocity

    def counted(latents: torch.Tensor, *arguments: object) -> torch.Tensor:
        rows.append(len(latents))
        return velocity(latents, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(policy, "velocity", counted)
    sample(policy, policy.encode(TEXTS[:1]) * 3, [7, 8, 9], SHARED_BY_THREE)
    assert rows == [1, 1, 3, 3]


def test_groups_can_be_sampled_together(policy: FluxPolicy) -> None:
    """Two groups of two in one batch, or in batches across their border.

    Each group has its own initial noise, and the same samples as alone. Two groups of one prompt are two groups.
    """
    first, second = policy.encode(TEXTS)
    for prompts in ([first, first, second, second], [first, first, first, first]):
        together = sample(policy, prompts, [5, 6, 7, 8], SHARED_BY_TWO).trajectories
        across = sample(policy, prompts, [5, 6, 7, 8], replace(SHARED_BY_TWO, max_batch=3)).trajectories
        later_group = sample(policy, prompts[2:], [7, 8], SHARED_BY_TWO).trajectories
        assert [row.shared_prefix for row in together] == [2] * 4 and [row.batch_size for row in across] == [3, 3, 3, 1]
        assert not torch.equal(together[0].latents[0], together[2].latents[0])
        assert torch.equal(together[2].latents[0], together[3].latents[0])
        for alone, row, cut in zip(later_group, together[2:], across[2:], strict=True):
            torch.testing.assert_close(row.latents, alone.latents, atol=1e-5, rtol=0)
            torch.testing.assert_close(cut.log_probs, alone.log_probs, atol=1e-5, rtol=1e-4)


def test_incomplete_or_mixed_groups_are_refused(policy: FluxPolicy) -> None:
    first, second = policy.encode(TEXTS)
    with pytest.raises(ValueError, match="pass one conditioning for all"):
        sample(policy, [first, second, first], [7, 8, 9], SHARED_BY_THREE)
    with pytest.raises(ValueError, match="in multiples of that, got 2"):
        sample(policy, [first, first], [7, 8], SHARED_BY_THREE)

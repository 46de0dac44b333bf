"""Cutting trajectories into batches: every pair once, with its own values."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from actors.grpo.replay import replay_batches
from actors.grpo.shared_noise import shared_replay_batches
from actors.policy.flux import FluxPolicy
from tests.support.learner import Group, groups_of, learner_of


@pytest.fixture
def group(policy: FluxPolicy, flux_directory: Path) -> Group:
    """N = 4 kept samples, K = 2 trained steps, of which the first is shared; sampled in batches of four."""
    return groups_of(policy, learner_of(flux_directory))[0]


@pytest.mark.parametrize(
    ("max_rows", "rows", "forward_rows"),
    [(0, [4, 4], [4, 4]), (3, [3, 3, 2], [3, 3, 2]), (16, [8], [8])],
)
def test_plain_batches(group: Group, max_rows: int, rows: list[int], forward_rows: list[int]) -> None:
    batches = list(replay_batches(group.trajectories, group.advantages.values, max_rows))
    assert [len(batch.s) for batch in batches] == rows
    assert [batch.forward_rows for batch in batches] == forward_rows
    pairs: Counter[tuple[int, int]] = Counter()
    for batch in batches:
        for row, (step, advantage) in enumerate(
            zip(batch.denoise_step.tolist(), batch.advantage.tolist(), strict=True)
        ):
            n = [round(value, 5) for value in group.advantages.values].index(round(advantage, 5))
            trajectory = group.trajectories[n]
            assert torch.equal(batch.x[row], trajectory.latents[step])
            assert torch.equal(batch.x_next[row], trajectory.latents[step + 1])
            assert (batch.s[row], batch.s_next[row]) == (trajectory.sigmas[step], trajectory.sigmas[step + 1])
            assert batch.log_prob[row] == trajectory.log_probs[step] and batch.weight[row] == 1 / 8
            pairs[n, step] += 1
    assert pairs == Counter((n, step) for n in range(4) for step in (0, 1))


def test_the_last_batch_is_padded_to_the_samplers_shape(group: Group, policy: FluxPolicy) -> None:
    """Three kept samples of four: two forward passes of four rows, of which the second has two extra ones."""
    trajectories, values = group.trajectories[:3], group.advantages.values[:3]
    batches = list(replay_batches(trajectories, values, 0))
    assert [(len(batch.s), batch.padding, batch.forward_rows) for batch in batches] == [(4, 0, 4), (2, 2, 4)]
    for batch in batches:
        velocity = batch.velocity(policy, group.conditioning)
        rows = policy.batch_conditioning([group.conditioning] * len(batch.s))
        torch.testing.assert_close(velocity, policy.velocity(batch.x, batch.s, rows), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("max_rows", "rows", "forward_rows"),
    [(0, [4, 4], [1, 4]), (3, [6, 2], [3, 2]), (16, [8], [5])],
)
def test_shared_latents_are_replayed_once(
    group: Group, policy: FluxPolicy, max_rows: int, rows: list[int], forward_rows: list[int]
) -> None:
    batches = list(shared_replay_batches(group.trajectories, group.advantages.values, max_rows))
    assert [len(batch.s) for batch in batches] == rows
    assert [batch.forward_rows for batch in batches] == forward_rows
    plain = next(iter(replay_batches(group.trajectories, group.advantages.values, 16)))
    for name in ("x", "s", "x_next", "s_next", "log_prob", "advantage", "weight", "denoise_step"):
        assert torch.equal(torch.cat([getattr(batch, name) for batch in batches]), getattr(plain, name)), name
    shared = torch.cat([batch.velocity(policy, group.conditioning) for batch in batches])
    torch.testing.assert_close(shared, plain.velocity(policy, group.conditioning), atol=1e-5, rtol=1e-4)


def test_shared_batches_are_padded_to_the_samplers_shape(group: Group) -> None:
    batches = list(shared_replay_batches(group.trajectories[:3], group.advantages.values[:3], 0))
    assert [(len(batch.s), batch.padding, batch.forward_rows) for batch in batches] == [(3, 0, 1), (3, 1, 4)]


def test_no_trajectories_give_no_batches() -> None:
    assert list(replay_batches([], [], 0)) == list(shared_replay_batches([], [], 0)) == []


def test_a_batch_is_moved_as_a_whole(group: Group) -> None:
    for cut in (replay_batches, shared_replay_batches):
        batch = next(iter(cut(group.trajectories, group.advantages.values, 16))).to(torch.device("meta"))
        assert {value.device.type for value in vars(batch).values() if isinstance(value, torch.Tensor)} == {"meta"}

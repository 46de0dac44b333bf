"""The rules by which rewards become one, against numbers computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from actors.rewards.combine import combine_group, gated, group_z_scores, weighted_sum
from actors.types import Scores

NAN = float("nan")


def scores(*mu: float) -> Scores:
    return Scores(np.array(mu, np.float32), np.full(len(mu), 0.5, np.float32))


def test_the_sum_of_one_reward_with_weight_1_is_that_reward_bit_for_bit() -> None:
    alone = Scores(np.random.default_rng(0).standard_normal(1000).astype(np.float32), np.ones(1000, np.float32))
    total = combine_group({"one": alone, "watched": scores(*[NAN] * 1000)}, {"one": 1.0, "watched": 0.0}, {}, "sum")
    assert total.mu.tobytes() == alone.mu.tobytes() and total.sigma.tobytes() == alone.sigma.tobytes()


def test_z_scores_ignore_the_scale_and_the_mean_of_a_reward() -> None:
    z = group_z_scores(scores(1.0, 2.0, 3.0, NAN))
    assert z.mu[:3].tolist() == pytest.approx([-np.sqrt(1.5), 0.0, np.sqrt(1.5)]) and np.isnan(z.mu[3])
    assert z.sigma[:3].tolist() == pytest.approx([0.5 / np.sqrt(2 / 3)] * 3)
    assert group_z_scores(scores(101.0, 111.0, 121.0)).mu.tolist() == pytest.approx(z.mu[:3].tolist())


def test_a_reward_that_is_equal_for_the_whole_group_adds_nothing_to_z_scores() -> None:
    assert group_z_scores(scores(0.1, 0.1, 0.1, NAN)).mu[:3].tolist() == [0.0, 0.0, 0.0]
    assert np.isnan(group_z_scores(scores(NAN, NAN)).mu).all()
    total = combine_group({"a": scores(0.1, 0.1), "b": scores(4.0, 8.0)}, {"a": 9.0, "b": 2.0}, {}, "z_scores")
    assert total.mu.tolist() == [-2.0, 2.0]


def test_an_image_below_a_gate_gets_the_lowest_total_of_its_group() -> None:
    parts = {"trained": scores(5.0, 1.0, 3.0, 2.0), "gate": scores(0.0, 0.5, 0.7, NAN)}
    total = combine_group(parts, {"trained": 1.0, "gate": 0.0}, {"gate": 0.5}, "sum")
    assert total.mu[:3].tolist() == [1.0, 1.0, 3.0] and np.isnan(total.mu[3])
    none_passes = gated(scores(5.0, 1.0), {"gate": scores(0.0, 0.0)}, {"gate": 0.5})
    assert none_passes.mu.tolist() == [1.0, 1.0], "equal totals: the group is skipped"


def test_a_gate_compares_the_reward_itself_also_if_z_scores_are_added() -> None:
    parts = {"trained": scores(10.0, 20.0, 30.0)}
    total = combine_group(parts, {"trained": 1.0}, {"trained": 15.0}, "z_scores")
    assert total.mu.tolist() == pytest.approx([-np.sqrt(1.5), 0.0, np.sqrt(1.5)])
    strict = combine_group(parts, {"trained": 1.0}, {"trained": 25.0}, "z_scores")
    assert strict.mu.tolist() == pytest.approx([-np.sqrt(1.5), -np.sqrt(1.5), np.sqrt(1.5)])


def test_a_sum_needs_a_weight() -> None:
    with pytest.raises(ValueError, match="needs a reward with a weight"):
        weighted_sum({"a": scores(1.0)}, {"a": 0.0})

from __future__ import annotations

import math

import numpy as np
import pytest

from actors.grpo.advantages import batch_divisor, group_advantages


def scores(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_statistics_over_the_kept_by_hand() -> None:
    """k = 1 of (0, 5, 6, 10): keeps 0 and 10, mean 5, std 5."""
    result = group_advantages(scores(0, 5, 6, 10), 1, "selected", 5.0)
    assert result.kept == (0, 3)
    assert result.values == pytest.approx((-5 / 5.0001, 5 / 5.0001))
    assert (result.mean, result.group_size, result.failed, result.tied) == (5.25, 4, 0, 0)


def test_statistics_over_the_group_by_hand() -> None:
    """The same, with the group's mean 5.25 and std sqrt(12.6875)."""
    result = group_advantages(scores(0, 5, 6, 10), 1, "group", 5.0)
    std = math.sqrt(12.6875) + 1e-4
    assert result.values == pytest.approx((-5.25 / std, 4.75 / std))


def test_the_std_of_the_batch_by_hand() -> None:
    """Kept of two groups: 0 and 10, 4 and 6. Each keeps its mean 5, the std of all four is sqrt(13); one is skipped."""
    batch = [scores(0, 5, 6, 10), scores(4, 5, 5, 6), scores(9, 9, 9, 9)]
    groups = [group_advantages(group, 1, "selected", 5.0) for group in batch]
    std = batch_divisor(batch, groups, "selected")
    assert std == pytest.approx(math.sqrt(13) + 1e-4)
    assert group_advantages(batch[0], 1, "selected", 0, std).values == pytest.approx((-5 / std, 5 / std))
    assert group_advantages(batch[1], 1, "selected", 0, std).values == pytest.approx((-1 / std, 1 / std))
    assert group_advantages(batch[1], 1, "selected", 0, 1.0).values == (-1.0, 1.0)
    assert group_advantages(batch[2], 1, "selected", 0, std).skipped == "zero spread"
    assert batch_divisor(batch, groups, "group") == pytest.approx(np.std([0, 5, 6, 10, 4, 5, 5, 6]) + 1e-4)
    assert batch_divisor(batch[2:], groups[2:], "selected") == 1e-4


def test_an_easy_prompt_keeps_its_good_images_positive() -> None:
    """Ten images of 9 and 10 beside two failures: group statistics turn a 9 negative, the paper's filter does not."""
    group = scores(10, 10, 9, 9, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 0, 0, 0)
    selected = group_advantages(group, 3, "selected", 5.0)
    assert selected.kept == (12, 13, 14, 15, 16, 17)
    assert all(value > 0.9 for value in selected.values[:3])


def test_ties_go_by_index() -> None:
    result = group_advantages(scores(1, 1, 2, 2, 1, 2), 1, "selected", 5.0)
    assert result.kept == (0, 5) and result.tied == 6


def test_failed_scores_are_dropped_and_k_shrinks() -> None:
    result = group_advantages(scores(math.nan, 3, math.inf, 1, 2), 2, "selected", 5.0)
    assert (result.kept, result.failed) == ((1, 3), 2)  # three are left, so k = 1
    assert result.values == pytest.approx((1 / 1.0001, -1 / 1.0001))


def test_groups_that_teach_nothing_are_skipped() -> None:
    assert group_advantages(scores(2, 2, 2, 2), 1, "selected", 5.0).skipped == "zero spread"
    assert group_advantages(scores(math.nan, 2), 1, "selected", 5.0).skipped == "too few scores"
    nothing = group_advantages(scores(math.nan, math.nan), 1, "selected", 5.0)
    assert nothing.kept == nothing.values == () and math.isnan(nothing.mean)


def test_without_a_filter_all_are_kept_and_clipped() -> None:
    result = group_advantages(scores(0, 0, 0, 0, 0, 0, 0, 0, 0, 100), 0, "selected", 2.0)
    assert result.kept == tuple(range(10))
    assert max(result.values) == 2.0 and min(result.values) == pytest.approx(-1 / 3, rel=1e-4)


def test_an_unknown_basis_is_refused() -> None:
    with pytest.raises(ValueError, match="stats_over must be selected or group"):
        group_advantages(scores(1, 2), 1, "batch", 5.0)

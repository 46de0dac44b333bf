from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from actors.grpo.advantages import group_advantages, select_top_k, standardize
from actors.grpo.batch_std import batch_std
from conf.policy import AlgorithmSettings


def scores(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def settings(top_k: int, **changes: Any) -> AlgorithmSettings:
    return AlgorithmSettings(**{"top_k": top_k, "advantage_std_over": "group", **changes})


@pytest.mark.parametrize(
    ("group", "k", "selected"),
    [
        ((5, 0, 10, 6), 1, [1, 2]),
        ((5, 0, 10, 6, 7, 8), 2, [0, 1, 2, 5]),
        ((1, 1, 2, 2, 1, 2), 1, [0, 5]),  # ties rank by index
        ((3, 3, 3, 3), 1, [0, 3]),
        ((math.nan, 3, math.inf, 1, 2), 2, [1, 3]),  # three are finite, so k = 1
        ((math.nan, 3, -math.inf, 1, 2), 0, [1, 3, 4]),  # k = 0: all finite scores
        ((1, 2, 3), 5, [0, 2]),
        ((math.nan, 2), 1, []),  # a single score has no best and worst
        ((math.nan, math.nan), 3, []),
        ((), 1, []),
    ],
)
def test_select_top_k(group: tuple[float, ...], k: int, selected: list[int]) -> None:
    assert select_top_k(scores(*group), k).tolist() == selected


def test_standardize_by_hand() -> None:
    """Mean 5 and population std 5 of (0, 10); mean 5.25 and std sqrt(12.6875) of (0, 5, 6, 10)."""
    np.testing.assert_allclose(standardize(scores(0, 10)), [-5 / 5.0001, 5 / 5.0001])
    std = math.sqrt(12.6875) + 1e-4
    np.testing.assert_allclose(standardize(scores(0, 10), over=scores(0, 5, 6, 10)), [-5.25 / std, 4.75 / std])
    assert standardize(scores(0, 10)).dtype == np.float64


def test_statistics_over_the_selected_images() -> None:
    """k = 1 of (0, 5, 6, 10): keeps 0 and 10, mean 5, std 5."""
    result = group_advantages(scores(0, 5, 6, 10), settings(1))
    assert result.kept == (0, 3)
    assert result.values == pytest.approx((-5 / 5.0001, 5 / 5.0001))
    assert (result.mean, result.group_size, result.failed, result.tied) == (5.25, 4, 0, 0)
    assert result.std == pytest.approx(math.sqrt(12.6875)) and result.skipped == ""


def test_statistics_over_the_group() -> None:
    """The same, with the group's mean 5.25 and std sqrt(12.6875); failed scores do not count."""
    std = math.sqrt(12.6875) + 1e-4
    for failed in ((), (math.nan,)):
        result = group_advantages(scores(0, 5, 6, 10, *failed), settings(1, advantage_mean_over="group"))
        assert result.values == pytest.approx((-5.25 / std, 4.75 / std))


def test_the_std_of_the_batch() -> None:
    """Selected of two groups: 0 and 10, 4 and 6. Each keeps its mean 5; the std of all four is sqrt(13)."""
    batch = [scores(0, 5, 6, 10), scores(4, 5, 5, 6), scores(9, 9, 9, 9)]
    centred = [group_advantages(group, settings(1, advantage_std_over="batch")) for group in batch]
    assert [group.values for group in centred] == [(-5.0, 5.0), (-1.0, 1.0), ()]
    assert centred[2].skipped == "zero spread"
    groups = list(zip(batch, centred, strict=True))
    assert batch_std(groups, "selected") == pytest.approx(math.sqrt(13) + 1e-4)
    assert batch_std(groups, "group") == pytest.approx(np.std([0, 5, 6, 10, 4, 5, 5, 6]) + 1e-4)
    assert batch_std(groups[2:], "selected") == 1e-4


def test_the_batch_std_ignores_failed_scores() -> None:
    group = scores(0, 5, math.nan, 6, 10)
    advantages = group_advantages(group, settings(1, advantage_std_over="batch", advantage_mean_over="group"))
    assert advantages.values == (-5.25, 4.75)
    assert batch_std([(group, advantages)], "group") == pytest.approx(np.std([0, 5, 6, 10]) + 1e-4)


def test_an_easy_prompt_keeps_its_good_images_positive() -> None:
    """Many images of 9 and 10 beside three failures.

    Over the selected six, the good images have the advantage 1; over the whole group only 0.5.
    """
    group = scores(10, 10, 9, 9, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 0, 0, 0)
    selected = group_advantages(group, settings(3))
    assert selected.kept == (12, 13, 14, 15, 16, 17)
    assert all(value > 0.9 for value in selected.values[:3])
    over_group = group_advantages(group, settings(3, advantage_mean_over="group"))
    assert over_group.kept == selected.kept and all(0.4 < value < 0.5 for value in over_group.values[:3])


def test_ties_are_ranked_by_index_and_counted() -> None:
    result = group_advantages(scores(1, 1, 2, 2, 1, 2), settings(1))
    assert result.kept == (0, 5) and result.tied == 6
    assert group_advantages(scores(1, 1, 2, 3), settings(1)).tied == 2


def test_failed_scores_are_dropped_and_k_shrinks() -> None:
    result = group_advantages(scores(math.nan, 3, math.inf, 1, 2), settings(2))
    assert (result.kept, result.failed) == ((1, 3), 2)  # three are left, so k = 1
    assert result.values == pytest.approx((1 / 1.0001, -1 / 1.0001))
    assert result.group_size == 5


@pytest.mark.parametrize("std_over", ["group", "batch"])
def test_groups_without_information_are_skipped(std_over: str) -> None:
    cfg = settings(1, advantage_std_over=std_over)
    equal = group_advantages(scores(2, 2, 2, 2), cfg)
    assert (equal.skipped, equal.kept, equal.values) == ("zero spread", (), ())
    assert (equal.mean, equal.std, equal.tied) == (2, 0, 4)
    assert group_advantages(scores(math.nan, 2), cfg).skipped == "too few scores"
    nothing = group_advantages(scores(math.nan, math.nan), cfg)
    assert nothing.skipped == "too few scores" and nothing.failed == 2
    assert nothing.kept == nothing.values == () and math.isnan(nothing.mean) and math.isnan(nothing.std)


def test_without_selection_all_images_are_kept() -> None:
    result = group_advantages(scores(0, 0, 0, 0, 0, 0, 0, 0, 0, 100), settings(0))
    assert result.kept == tuple(range(10))
    assert max(result.values) == pytest.approx(3, rel=1e-4)  # mean 10, std 30
    assert min(result.values) == pytest.approx(-1 / 3, rel=1e-4)

"""The best version, and what falls while the reward rises: numbers of a few evaluations."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from pipelines.policy.checker_metrics import CheckerCounts
from pipelines.policy.evaluation_history import best_evaluation, with_history
from pipelines.policy.image_statistics import diversity, image_statistics
from pipelines.policy.measures import summarize_all
from pipelines.policy.metrics import EvaluationRow
from pipelines.policy.watch import MAX_FALL, fallen

NAN = math.nan


def row(version: int, reward: float, short: float = NAN, long: float = NAN) -> EvaluationRow:
    """An evaluation of which only these numbers matter."""
    return EvaluationRow(
        version, 1.0, 1.0, 96, short, long, 0.9, 0.8, 0.0, 0.0, reward, reward, reward,
    )  # fmt: skip


ROWS = (row(0, 9.0, 0.99, 0.99), row(10, 1.0, 0.9, 0.7), row(20, 3.0, 0.5, 0.6), row(30, NAN, 0.4, NAN), row(40, 3.0))


@pytest.mark.parametrize(
    ("by", "among", "best"),
    [
        ("reward", None, 20),  # the base does not count, and of equal versions the earliest does
        ("reward", (10, 30, 40), 40),
        ("reward", (30,), None),
        ("reward", (0,), None),
        ("relations", None, 10),
        ("relations", (20, 30, 40), 20),  # version 40 was not checked
        ("relations", (30,), 30),  # only one of its two means is known
    ],
)
def test_the_best_version(by: str, among: tuple[int, ...] | None, best: int | None) -> None:
    found = best_evaluation(ROWS, by, among)
    assert (found.iteration if found else None) == best


def test_every_evaluation_names_the_best_version_so_far() -> None:
    found = [with_history(each, ROWS[:number], "reward").best_iteration for number, each in enumerate(ROWS)]
    assert found == [0, 10, 20, 20, 20]
    assert with_history(ROWS[1], ROWS, "reward").best_iteration == 10, "later versions do not count"


def watched(version: int, reward: float, **means: float) -> EvaluationRow:
    """An evaluation with measures of spread 2."""
    measures = {name: {"mean": mean, "spread": 2.0} for name, mean in means.items()}
    return replace(row(version, reward), measures=measures)


@pytest.mark.parametrize(
    ("reward", "now", "fall", "named"),
    [
        (2.0, 7.0, 1.5, "sharpness -1.5 std"),
        (2.0, 10.0 - 2.0 * MAX_FALL + 0.1, 0.45, ""),
        (2.0, 13.0, 0.0, ""),
        (0.5, 7.0, 0.0, ""),  # the reward fell, too: this is no exploit
        (NAN, 7.0, 0.0, ""),
        (2.0, NAN, NAN, ""),
    ],
)
def test_a_measure_that_falls_while_the_reward_rises(reward: float, now: float, fall: float, named: str) -> None:
    first, last = watched(0, 1.0, sharpness=10.0, mine=-3.0), watched(10, reward, sharpness=now, mine=-3.0, new=1.0)
    measures = with_history(last, [first], "reward").measures
    assert measures["sharpness"]["fall"] == pytest.approx(fall, nan_ok=True)
    assert (measures["mine"]["fall"], measures["new"]["fall"]) == (0.0, 0.0)
    assert fallen(measures) == named
    assert with_history(first, [], "reward").measures["sharpness"]["fall"] == 0.0


def test_a_measure_below_zero_and_one_without_spread_can_fall() -> None:
    first = replace(
        row(0, 1.0), measures={"mine": {"mean": -3.0, "spread": 0.5}, "exact": {"mean": 1.0, "spread": 0.0}}
    )
    last = replace(row(9, 2.0), measures={"mine": {"mean": -4.0, "spread": 0.5}, "exact": {"mean": 0.9, "spread": 0.3}})
    assert fallen(with_history(last, [first], "reward").measures) == "mine -2.0 std, exact -10.0 std"


def test_the_best_version_by_a_measure() -> None:
    rows = [watched(0, 1.0, mine=9.0), watched(1, 5.0, mine=2.0), watched(2, 1.0, mine=3.0), row(3, 9.0)]
    best = best_evaluation(rows, "mine")
    assert best is not None and best.iteration == 2, "neither the base nor a version in which it was not measured"


def test_statistics_of_images_that_are_known() -> None:
    flat = np.full((8, 8, 3), 128, np.uint8)
    halves = flat.copy()
    halves[:, :4] = (255, 0, 0)
    halves[:, 4:] = (0, 0, 255)
    colors = np.zeros((8, 8, 3), np.uint8)
    colors[..., 0] = np.arange(8) * 32  # eight levels of red
    dot = np.zeros((8, 8, 3), np.uint8)
    dot[4, 4] = 100  # a Laplacian of -400, and of 100 at four neighbours, among the 36 inner pixels
    edges, entropy, saturation, sharpness = image_statistics(np.stack([flat, halves, colors, dot])).T
    np.testing.assert_allclose(edges[:2], [0.0, 7 / 49], atol=1e-6)  # one column of seven is an edge
    np.testing.assert_allclose(entropy[:3], [0.0, 1.0, 3.0], atol=1e-6)
    np.testing.assert_allclose(saturation[:3], [0.0, 1.0, 7 / 8], atol=1e-6)
    np.testing.assert_allclose(sharpness[[0, 2, 3]], [0.0, 0.0, np.sqrt(200_000 / 36)], atol=1e-3)
    assert sharpness[1] > 0


def test_diversity_is_the_difference_of_two_images_of_a_prompt_at_16_pixels() -> None:
    black, white = np.zeros((1, 64, 48, 3), np.uint8), np.full((1, 64, 48, 3), 255, np.uint8)
    half, noise = black.copy(), black.copy()
    half[:, :32] = 255
    noise[:, ::2] = 255  # of equal mean in each of the areas of 4 x 3 pixels
    others = np.concatenate((black, white, half, noise))
    np.testing.assert_allclose(diversity(np.repeat(black, 4, 0), others), [0, 1, np.sqrt(0.5), 0.5], atol=0.002)


def test_measures_are_joined_over_batches_and_over_the_exact_counts() -> None:
    first, second = {"a": np.array([1.0, NAN]), "diversity": np.array([0.5])}, {"a": np.array([3.0])}
    found = summarize_all([first, second], CheckerCounts(images=4, perfect=1))
    assert found["a"] == {"mean": 2.0, "spread": 1.0, "missing": 1.0} and found["diversity"]["mean"] == 0.5
    assert found["fully_correct"] == {"mean": 0.25, "spread": pytest.approx(np.sqrt(3 / 16)), "missing": 0.0}
    assert math.isnan(summarize_all([{"a": np.array([NAN])}], CheckerCounts())["a"]["mean"])

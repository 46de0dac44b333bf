"""The best version, and what images lose while the reward rises: numbers of a few evaluations."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from conf.policy import BestBy
from pipelines.policy.evaluation_history import best_evaluation, lost_details, with_history
from pipelines.policy.image_statistics import MAX_DETAIL_LOSS, image_statistics, mean_statistics
from pipelines.policy.metrics import EvaluationRow

NAN = math.nan


def row(version: int, reward: float, short: float = NAN, long: float = NAN, edges: float = 0.2) -> EvaluationRow:
    """An evaluation of which only these numbers matter."""
    return EvaluationRow(
        version, 1.0, 1.0, 96, short, long, 0.9, 0.8, 0.0, 0.0, reward, reward, reward,
        edge_density=edges, color_entropy=3.0, saturation=0.5,
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
def test_the_best_version(by: BestBy, among: tuple[int, ...] | None, best: int | None) -> None:
    found = best_evaluation(ROWS, by, among)
    assert (found.iteration if found else None) == best


def test_every_evaluation_names_the_best_version_so_far() -> None:
    found = [with_history(each, ROWS[:number], "reward").best_iteration for number, each in enumerate(ROWS)]
    assert found == [0, 10, 20, 20, 20]
    assert with_history(ROWS[1], ROWS, "reward").best_iteration == 10, "later versions do not count"


@pytest.mark.parametrize(
    ("reward", "edges", "loss", "named"),
    [
        (2.0, 0.1, 0.5, "edge density -50%"),
        (2.0, 0.2 * (1 - MAX_DETAIL_LOSS) + 0.01, 0.25, ""),
        (2.0, 0.4, 0.0, ""),
        (0.5, 0.1, 0.0, ""),  # the reward fell, too: this is no exploit
        (NAN, 0.1, 0.0, ""),
        (2.0, NAN, 0.0, ""),
    ],
)
def test_detail_that_is_lost_while_the_reward_rises(reward: float, edges: float, loss: float, named: str) -> None:
    first, now = row(0, 1.0), row(10, reward, edges=edges)
    assert with_history(now, [first], "reward").detail_loss == pytest.approx(loss)
    assert lost_details([first, now]) == named
    assert with_history(first, [], "reward").detail_loss == 0.0


def test_evaluations_of_an_older_version_have_no_statistics() -> None:
    first = replace(row(0, 1.0), edge_density=NAN, color_entropy=NAN, saturation=NAN)
    assert math.isnan(with_history(row(10, 2.0), [first], "reward").detail_loss)


def test_statistics_of_images_that_are_known() -> None:
    flat = np.full((8, 8, 3), 128, np.uint8)
    halves = flat.copy()
    halves[:, :4] = (255, 0, 0)
    halves[:, 4:] = (0, 0, 255)
    colors = np.zeros((8, 8, 3), np.uint8)
    colors[..., 0] = np.arange(8) * 32  # eight levels of red
    statistics = image_statistics(np.stack([flat, halves, colors]))
    np.testing.assert_allclose(statistics[0], [0.0, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(statistics[1], [7 / 49, 1.0, 1.0], atol=1e-6)  # one column of seven is an edge
    np.testing.assert_allclose(statistics[2, 1:], [3.0, 7 / 8], atol=1e-6)
    mean = mean_statistics(statistics)
    assert (mean.color_entropy, mean.edge_density) == (pytest.approx(4 / 3), pytest.approx(statistics[:, 0].mean()))
    assert math.isnan(mean_statistics(image_statistics(np.zeros((0, 8, 8, 3), np.uint8))).saturation)

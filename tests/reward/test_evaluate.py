"""What is measured of a model on pairs: accuracies, intervals, significance, calibration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from actors.types import Scores
from pipelines.common.intervals import mcnemar, wilson
from pipelines.preferences.dataset.splits import split_of
from pipelines.reward.accuracy import Evaluation, summarise
from pipelines.reward.baselines.position_bias import combine_orders
from pipelines.reward.calibration import calibrate, expected_error, fit_temperature, gaussian_logits, reliability
from pipelines.reward.data import Pair
from pipelines.reward.evaluate import fit_half, measure
from pipelines.reward.predictions import PairPredictions
from pipelines.reward.report import render_report, table


class Brightness:
    """A scorer that likes bright images; under a prompt that says "dark", dark ones."""

    def score(self, *, images: list[np.ndarray], prompts: list[str]) -> Scores:
        mu = [image.mean() * (-1 if "dark" in prompt else 1) for image, prompt in zip(images, prompts, strict=True)]
        return Scores(np.array(mu, np.float32), np.ones(len(mu), np.float32))


def _pair(w: int, l: int, kind: str, changes: int, perturbed: str | None = None) -> Pair:  # noqa: E741
    image = np.ones((2, 2, 3), np.uint8)
    words = ("left of", "above")[:changes]
    return Pair(f"{w}{l}{kind}", "bright", perturbed, image * w, image * l, kind, changes, words, f"{w}{kind}")


PAIRS = [
    _pair(9, 1, "perturbed", 1, "dark"), _pair(5, 5, "perturbed", 1, "dark"), _pair(9, 1, "perturbed", 2, "dark"),
    _pair(1, 9, "exploit", 0), _pair(9, 1, "generated", 0),
]  # fmt: skip


def test_ties_are_wrong_and_kinds_are_kept_apart() -> None:
    report, right, calibrations = measure(Brightness(), PAIRS)  # pyright: ignore[reportArgumentType]
    found = report.accuracies
    parts = (found.one_change, found.more_changes, found.relations, found.exploit, found.generated,
             found.perturbed_prompt, found.overall)  # fmt: skip
    assert [part and (part.right, part.pairs) for part in parts] == [
        (1, 2), (1, 1), (2, 3), (0, 1), (1, 1), (2, 3), (3, 5)
    ]  # fmt: skip
    assert {word: (one.right, one.pairs) for word, one in report.by_relation.items()} == {
        "left of": (2, 3), "above": (1, 1)
    }  # fmt: skip
    assert right.tolist() == [True, False, True, False, True]
    with pytest.raises(ValueError, match="no held-out pairs"):
        measure(Brightness(), [])  # pyright: ignore[reportArgumentType]
    rival = summarise("HPSv3", PairPredictions(np.array([1, np.nan, -1, 0, 1]), np.array([1, 0, 0, 0, 1], bool)), PAIRS)
    assert (rival.truncated, rival.unanswered) == (2, 1)
    assert rival.accuracies.overall and rival.accuracies.overall.right == 2
    test = mcnemar("SpatialScore", right, "HPSv3", np.array([True, False, False, False, True]))
    evaluation = Evaluation((report, rival), (test,), calibrations)
    text, page = table(evaluation), render_report(evaluation)
    assert "60.6%" in text and "1 no answer" in text and "McNemar" in text
    assert "60.6" in page and "McNemar" in page and "changed: left of" in page


def test_the_interval_is_wilson_s() -> None:
    for right, count in ((0, 7), (7, 7), (57, 60)):
        got = wilson(np.arange(count) < right)
        wanted = binomtest(right, count).proportion_ci(method="wilson")
        assert got is not None
        assert (got.low, got.high) == pytest.approx((wanted.low, wanted.high), abs=1e-6)
    assert wilson(np.empty(0, bool)) is None


def test_mcnemar_looks_at_pairs_that_one_model_alone_gets_right() -> None:
    first = np.array([True] * 90 + [False] * 10)
    other = np.array([True] * 80 + [False] * 18 + [True] * 2)
    test = mcnemar("a", first, "b", other)
    assert (test.only_first, test.only_other) == (10, 2)
    assert test.difference == pytest.approx(0.08)
    assert test.p == pytest.approx(2 * (1 + 12 + 66) / 2**12)  # both tails of 2 or fewer of 12
    assert mcnemar("a", first, "b", first).p == 1.0
    with pytest.raises(ValueError, match="same pairs"):
        mcnemar("a", first, "b", other[:5])


def test_no_prompt_group_is_in_both_halves_of_the_calibration() -> None:
    groups = [str(number) for number in range(400) if split_of(str(number), 0.1) == "test"]
    pairs = [replace(PAIRS[0], pair_id=f"{group}-{copy}", group_id=group) for group in groups for copy in range(3)]
    half = fit_half(pairs).reshape(-1, 3)
    assert (half == half[:, :1]).all()
    assert 0.2 < half.mean() < 0.8


def test_a_temperature_undoes_overconfidence() -> None:
    """Outcomes drawn from sigmoid(z), logits shown four times too large: T is about 4, and the error goes away."""
    rng = np.random.default_rng(0)
    z = rng.normal(0, 1.5, 20000)
    shown = 4 * np.where(rng.random(len(z)) < 1 / (1 + np.exp(-z)), z, -z)  # the sign says whether it was right
    assert fit_temperature(shown) == pytest.approx(4.0, rel=0.1)
    found = calibrate("mu", shown, np.arange(len(z)) % 2 == 0)
    assert found.error > 0.1
    assert found.error_scaled < 0.02
    assert sum(one.pairs for one in found.bins) == len(z) / 2
    with pytest.raises(ValueError, match="both halves"):
        calibrate("mu", shown, np.ones(len(z), bool))


def test_reliability_counts_by_hand_and_sigma_lowers_confidence() -> None:
    logits = np.log(np.array([0.91 / 0.09, 0.91 / 0.09, 0.09 / 0.91, 1.0]))  # sure and right twice, sure and wrong, tie
    tie, sure = reliability(logits)
    assert (tie.pairs, tie.accuracy, sure.pairs) == (1, 0.0, 3)
    assert (sure.confidence, sure.accuracy) == pytest.approx((0.91, 2 / 3))
    assert expected_error((tie, sure)) == pytest.approx(0.25 * 0.5 + 0.75 * (0.91 - 2 / 3))
    one, zero = np.ones(1), np.zeros(1)
    assert gaussian_logits(2 * one, zero, zero, zero) == pytest.approx(2.0)
    assert gaussian_logits(2 * one, one, zero, one) == pytest.approx(2 / np.sqrt(1 + np.pi / 4))


def test_both_orders_must_agree() -> None:
    """1 names the first image shown: the winner in the first order, the loser in the second."""
    judged = combine_orders([1, 1, -1, 0, float("nan")], [-1, 1, 1, -1, -1])
    np.testing.assert_array_equal(judged.margin, [1, 0, -1, 0.5, np.nan])
    assert judged.right.tolist() == [True, False, False, True, False]

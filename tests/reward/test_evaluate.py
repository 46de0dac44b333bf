"""Evaluation on pairs: accuracies, intervals, significance, calibration."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from scipy.stats import binomtest

from actors.spatialscore import SpatialScorer
from actors.types import Scores
from conf import load
from pipelines.common.intervals import Accuracy, mcnemar, wilson
from pipelines.preferences.dataset.splits import split_of
from pipelines.preferences.row_values import PairKind
from pipelines.reward.accuracy import Evaluation, summarize
from pipelines.reward.baselines.position_bias import combine_orders, concatenated
from pipelines.reward.calibration import (
    Bin,
    calibrate,
    expected_error,
    fit_temperature,
    gaussian_logits,
    merged,
    reliability,
)
from pipelines.reward.data import Pair
from pipelines.reward.evaluate import Measurement, fit_half, measure
from pipelines.reward.hard_negatives import accuracy_by_kind
from pipelines.reward.held_out_scores import ScoringTasks, scoring_tasks
from pipelines.reward.predictions import KeyedPredictions, PairKey, PairPredictions
from pipelines.reward.report import render_report, table
from pipelines.reward.uncertainty import auroc, sigma_report
from pipelines.scenes.hard_negatives import HARD_KINDS


class PrefersBright:
    """A scorer that prefers bright images, and dark ones under a prompt that says "dark"."""

    def score(self, images: list[np.ndarray], prompts: list[str]) -> Scores:
        mu = [image.mean() * (-1 if "dark" in prompt else 1) for image, prompt in zip(images, prompts, strict=True)]
        return Scores(np.array(mu, np.float32), np.ones(len(mu), np.float32))


def _pair(w: int, l: int, kind: PairKind, changes: int, perturbed: str | None = None) -> Pair:  # noqa: E741
    """A pair of images of the brightness `w` and `l`."""
    image = np.ones((2, 2, 3), np.uint8)
    words = ("left of", "above")[:changes]
    return Pair(f"{w}{l}{kind}", "bright", perturbed, image * w, image * l, kind, changes, words, f"{w}{kind}")


PAIRS = [
    _pair(9, 1, "perturbed", 1, "dark"),
    _pair(5, 5, "perturbed", 1, "dark"),
    _pair(9, 1, "perturbed", 2, "dark"),
    _pair(1, 9, "corrupted", 0),
    _pair(9, 1, "generated", 0),
]


def _counts(accuracy: Accuracy | None) -> tuple[int, int]:
    assert accuracy is not None
    return accuracy.right, accuracy.pairs


@pytest.fixture
def measurement() -> Measurement:
    return measure(cast(SpatialScorer, PrefersBright()), PAIRS)


def test_every_gpu_of_a_fit_scores_held_out_pairs() -> None:
    """Ray would put three tasks with 0.3 GPUs each on one GPU, and leave five GPUs idle."""
    eight = load("flux_dev_8gpu")
    assert eight.serving.gpus == 0.3
    assert scoring_tasks(eight, 500) == ScoringTasks(8, 1.0)
    assert scoring_tasks(eight, 3) == ScoringTasks(3, 1.0)
    assert scoring_tasks(load("flux_dev_1gpu"), 500) == ScoringTasks(1, 0.3)
    assert scoring_tasks(load("scenes"), 500) == ScoringTasks(1, 0.0)


def test_ties_are_wrong_and_kinds_of_pairs_are_counted_separately(measurement: Measurement) -> None:
    found = measurement.report.accuracies
    assert _counts(found.one_change) == (1, 2)
    assert _counts(found.more_changes) == (1, 1)
    assert _counts(found.relations) == (2, 3)
    assert _counts(found.corrupted) == (0, 1)
    assert _counts(found.generated) == (1, 1)
    assert _counts(found.perturbed_prompt) == (2, 3)
    assert _counts(found.overall) == (3, 5)
    by_relation = {word: _counts(accuracy) for word, accuracy in measurement.report.by_relation.items()}
    assert by_relation == {"left of": (2, 3), "above": (1, 1)}
    assert measurement.right.tolist() == [True, False, True, False, True]
    with pytest.raises(ValueError, match="no held-out pairs"):
        measure(cast(SpatialScorer, PrefersBright()), [])


def test_a_baseline_without_an_answer_is_wrong_and_the_report_shows_both_models(measurement: Measurement) -> None:
    predictions = PairPredictions(np.array([1, np.nan, -1, 0, 1]), np.array([1, 0, 0, 0, 1], bool))
    baseline = summarize("HPSv3", predictions, PAIRS)
    assert (baseline.truncated, baseline.unanswered) == (2, 1)
    assert _counts(baseline.accuracies.overall) == (2, 5)
    test = mcnemar("SpatialScore", measurement.right, "HPSv3", predictions.right)
    evaluation = Evaluation((measurement.report, baseline), (test,), measurement.calibrations)
    text, page = table(evaluation), render_report(evaluation)
    assert "HPSv3: 2 prompts truncated, 1 pairs without an answer" in text
    assert re.search(r"SpatialScore - HPSv3: \+20\.0%.* 1 and 0; McNemar's exact p = 1", text)
    assert re.search(r"ImageReward .*43\.9%", text), "the paper's rows of models that were not measured"
    assert re.search(r"<th scope=\"row\">all pairs</th><td.*><b>60\.0 %.*>3 / 5</td>", page)
    assert re.search(r"changed: left of</th><td.*><b>66\.7 %", page)
    assert page.index("Calibration") < page.index("<details>"), "what was not measured comes last"
    assert "ImageReward" in page[page.index("<details>") : page.index("</details>")]
    assert re.search(r"HPSv3</th><td>\+20\.0 points</td><td>1</td><td>0</td><td>1</td>", page)


def test_the_columns_of_table_1_are_those_of_the_benchmark_if_there_is_one(measurement: Measurement) -> None:
    assert "Table 1, benchmark" not in table(Evaluation((measurement.report,), (), ()))
    pairs = [replace(pair, split="benchmark" if number != 1 else "test") for number, pair in enumerate(PAIRS)]
    report = measure(cast(SpatialScorer, PrefersBright()), pairs).report
    found = report.accuracies
    assert _counts(found.benchmark_one_change) == (1, 1) and _counts(found.benchmark_more_changes) == (1, 1)
    assert _counts(found.benchmark) == (3, 4) and _counts(found.overall) == (3, 5)
    text = table(Evaluation((report,), (), ()))
    assert re.search(r"Table 1, benchmark.*\nSpatialScore +100.0% +100.0% +75.0%", text)
    assert "Measured on this run's split benchmark." in render_report(Evaluation((report,), (), ()))


def test_the_interval_is_wilsons() -> None:
    for right, count in ((0, 7), (7, 7), (57, 60)):
        interval = wilson(np.arange(count) < right)
        expected = binomtest(right, count).proportion_ci(method="wilson")
        assert interval is not None
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert wilson(np.empty(0, bool)) is None
    none_right = wilson(np.zeros(3, bool))
    assert none_right is not None and f"{none_right.low:.1%}" == "0.0%", "no minus sign by rounding"


def test_mcnemar_uses_the_pairs_that_only_one_model_orders_correctly() -> None:
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


def test_the_temperature_corrects_overconfidence() -> None:
    """Outcomes are drawn from sigmoid(z), and the logits are four times too large: T is about 4."""
    rng = np.random.default_rng(0)
    z = rng.normal(0, 1.5, 20000)
    logits = 4 * np.where(rng.random(len(z)) < 1 / (1 + np.exp(-z)), z, -z)  # the sign says whether it was right
    assert fit_temperature(logits) == pytest.approx(4.0, rel=0.1)
    found = calibrate("mu", logits, np.arange(len(z)) % 2 == 0)
    assert found.error > 0.1
    assert found.error_scaled < 0.02
    assert sum(b.pairs for b in found.bins) == len(z) / 2
    with pytest.raises(ValueError, match="both halves"):
        calibrate("mu", logits, np.ones(len(z), bool))


def test_reliability_equals_counts_by_hand_and_sigma_lowers_the_confidence() -> None:
    logits = np.log(
        np.array([0.91 / 0.09, 0.91 / 0.09, 0.09 / 0.91, 1.0])
    )  # confident and right (twice), confident and wrong, a tie
    tie, confident = reliability(logits)
    assert (tie.pairs, tie.accuracy, confident.pairs) == (1, 0.0, 3)
    assert (confident.confidence, confident.accuracy) == pytest.approx((0.91, 2 / 3))
    assert expected_error((tie, confident)) == pytest.approx(0.25 * 0.5 + 0.75 * (0.91 - 2 / 3))
    one, zero = np.ones(1), np.zeros(1)
    assert gaussian_logits(2 * one, zero, zero, zero) == pytest.approx(2.0)
    assert gaussian_logits(2 * one, one, zero, one) == pytest.approx(2 / np.sqrt(1 + np.pi / 4))


def test_small_bins_of_the_diagram_are_put_together() -> None:
    bins = [Bin(1, 0.52, 1.0), Bin(3, 0.6, 0.0), Bin(9, 0.7, 2 / 3), Bin(4, 0.85, 0.5), Bin(300, 0.99, 0.99)]
    shown = merged(bins, 12)
    assert [each.pairs for each in shown] == [17, 300]
    assert shown[0].confidence == pytest.approx((0.52 + 3 * 0.6 + 9 * 0.7 + 4 * 0.85) / 17)
    assert shown[0].accuracy == pytest.approx((1 + 0 + 6 + 2) / 17)
    assert [each.pairs for each in merged(bins, 14)] == [17, 300] and [each.pairs for each in merged(bins, 18)] == [317]
    assert merged(bins[:1], 5) == (bins[0],) and merged((), 5) == ()


def test_both_orders_must_agree() -> None:
    """1 names the first image shown: the winner in the first order, the loser in the second."""
    combined = combine_orders([1, 1, -1, 0, float("nan")], [-1, 1, 1, -1, -1])
    np.testing.assert_array_equal(combined.margin, [1, 0, -1, 0.5, np.nan])
    assert combined.right.tolist() == [True, False, False, True, False]
    assert combined.one_order.tolist() == [1, 0.5, 0, 0.5, 0.5]


def test_baselines_are_compared_pair_by_pair_even_if_they_read_other_pairs() -> None:
    keys = (PairKey(0, "a"), PairKey(0, "c"), PairKey(1, "a"))
    read = KeyedPredictions(keys, combine_orders([1, -1, 1], [-1, 1, -1]))
    found = read.of((PairKey(0, "c"), PairKey(0, "d"), PairKey(1, "a")))
    np.testing.assert_array_equal(found.margin, [-1, np.nan, 1])
    assert found.right.tolist() == [False, False, True]
    assert read.of(keys).margin.tolist() == read.predictions.margin.tolist()


def test_a_judges_position_bias_is_reported_beside_the_strict_accuracy(measurement: Measurement) -> None:
    always_first = concatenated([combine_orders([1, 1], [1, 1]), combine_orders([1, 1, 1], [1, -1, 1])])
    judge = summarize("GPT-5", always_first, PAIRS)
    assert _counts(judge.accuracies.overall) == (1, 5)
    assert judge.one_order == pytest.approx(0.6)
    evaluation = Evaluation((measurement.report, judge), (), measurement.calibrations)
    assert re.search(r"GPT-5 was asked in both orders.* 20\.0% if .* 60\.0% in the mean", table(evaluation))
    assert "60.0% in the mean over orders" in render_report(evaluation)
    assert "in both orders" not in table(Evaluation((measurement.report,), (), ()))


def test_sigma_that_grows_with_the_errors_ranks_them_and_constant_sigma_does_not() -> None:
    rng = np.random.default_rng(0)
    s = np.sort(rng.uniform(0.1, 2.0, 1000))
    right = rng.random(1000) > s / 2.5  # the larger sigma, the more errors
    margin = np.where(right, 1.0, -1.0)
    found = sigma_report(right, margin, s * 0.6, s * 0.8)  # hypot(0.6 s, 0.8 s) = s
    assert [group.accuracy.pairs for group in found.groups] == [200] * 5
    assert found.groups[0].low == pytest.approx(s[0]) and found.groups[-1].high == pytest.approx(s[-1])
    shares = [group.accuracy.accuracy for group in found.groups]
    assert shares == sorted(shares, reverse=True)
    assert found.auroc_margin == 0.5, "all margins are equally large"
    assert found.auroc_sigma is not None and found.auroc_sigma > 0.7
    assert "trust the one with the smaller sigma" in found.meaning
    constant = sigma_report(right, margin, np.ones(1000), np.ones(1000))
    assert constant.auroc_sigma == 0.5
    assert "sigma does not point at errors here" in constant.meaning
    few = sigma_report(np.arange(40) >= 9, np.ones(40), np.ones(40), np.ones(40))
    assert few.wrong == 9 and "only 9 of 40 pairs are in the wrong order" in few.meaning


def test_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    score, positive = np.array([3.0, 1.0, 2.0, 2.0, 0.0]), np.array([True, False, True, False, False])
    by_hand = [(p > n) + 0.5 * (p == n) for p in score[positive] for n in score[~positive]]
    assert auroc(score, positive) == pytest.approx(np.mean(by_hand))


def test_hard_negatives_and_sigma_are_in_the_table_and_in_the_report(measurement: Measurement) -> None:
    hard = accuracy_by_kind(cast(SpatialScorer, PrefersBright()), count=4)
    assert list(hard) == list(HARD_KINDS) and {accuracy.pairs for accuracy in hard.values()} == {4}
    assert (hard["doubled"].right, hard["missing"].right) == (4, 0), "an image without an object is brighter"
    evaluation = Evaluation((measurement.report,), (), (), uncertainty=measurement.uncertainty, hard_negatives=hard)
    text, page = table(evaluation), render_report(evaluation)
    assert re.search(r"hard negative: moved one cell +\d+\.\d% .*/4", text)
    assert re.search(r"sigma 1\.414 to 1\.414 +\d+\.\d%", text)
    assert measurement.uncertainty is not None and measurement.uncertainty.meaning in text
    assert "<h2>Hard negatives</h2>" in page and "σ against errors" in page
    plain = render_report(Evaluation((measurement.report,), (), ()))
    assert "Hard negatives" not in plain and "σ against errors" not in plain

"""Accuracies and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from actors.records import Scores
from pipelines.reward.data import Pair
from pipelines.reward.evaluate import measure, table, wilson


class Brightness:
    """A scorer that likes bright images; under a prompt that says "dark", dark ones."""

    def score(self, *, images: list[np.ndarray], prompts: list[str]) -> Scores:
        mu = [image.mean() * (-1 if "dark" in prompt else 1) for image, prompt in zip(images, prompts, strict=True)]
        return Scores(np.array(mu, np.float32), np.ones(len(mu), np.float32))


def _pair(w: int, l: int, kind: str, changes: int, perturbed: str | None = None) -> Pair:  # noqa: E741
    image = np.ones((2, 2, 3), np.uint8)
    return Pair("", "bright", perturbed, image * w, image * l, kind, changes)


def test_ties_are_wrong_and_kinds_are_kept_apart() -> None:
    pairs = [
        _pair(9, 1, "perturbed", 1, "dark"), _pair(5, 5, "perturbed", 1, "dark"), _pair(9, 1, "perturbed", 3, "dark"),
        _pair(1, 9, "exploit", 0), _pair(9, 1, "generated", 0),
    ]  # fmt: skip
    report = measure(Brightness(), pairs)  # pyright: ignore[reportArgumentType]
    parts = (report.one_change, report.more_changes, report.exploit, report.generated, report.perturbed_prompt)
    shares = [part and (part.right, part.pairs) for part in (*parts, report.overall)]
    assert shares == [(1, 2), (1, 1), (0, 1), (1, 1), (2, 3), (3, 5)]
    assert "1 changed relation" in table(report)
    with pytest.raises(ValueError, match="no held-out pairs"):
        measure(Brightness(), [])  # pyright: ignore[reportArgumentType]


def test_the_interval_is_wilson_s() -> None:
    for right, count in ((0, 7), (7, 7), (57, 60)):
        got = wilson(np.arange(count) < right)
        wanted = binomtest(right, count).proportion_ci(method="wilson")
        assert got is not None
        assert (got.low, got.high) == pytest.approx((wanted.low, wanted.high), abs=1e-6)
    assert wilson(np.empty(0, bool)) is None

"""Calls that are scored together on one replica do not share their errors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from actors.images import ImageError
from actors.reward_input import InputError
from actors.spatialscore import SpatialScorer
from actors.types import Scores
from actors.workers.score_calls import CallScorer, ScoreCall
from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore

PROMPT = "a red circle left of a blue square"


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> SpatialScorer:
    """A tiny model."""
    folder = tmp_path_factory.mktemp("vlm")
    save_tiny_vlm(Path(folder))
    return SpatialScorer(tiny_spatialscore(Path(folder)))


def test_a_call_that_fails_does_not_fail_the_calls_that_are_scored_with_it(
    scorer: SpatialScorer, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model runs out of memory on any batch with a black image; two other calls are refused by the scorer."""
    expected = scorer.score(images, [PROMPT] * 4)
    score, batches = scorer.score, list[int]()

    def score_or_fail(batch: Sequence[np.ndarray], prompts: Sequence[str]) -> Scores:
        batches.append(len(prompts))
        if not all(image.any() for image in batch if image.size):
            raise RuntimeError("out of memory")
        return score(batch, prompts)

    monkeypatch.setattr(scorer, "score", score_or_fail)
    black = np.zeros_like(images[:1])
    calls = [
        *(ScoreCall(images[number : number + 1], [PROMPT]) for number in range(4)),
        ScoreCall(black, [PROMPT]),
        ScoreCall(images[:1], ["\ud800"]),
        ScoreCall(black[:, :0], [PROMPT]),
        ScoreCall(images[:0], []),
        ScoreCall(images, [PROMPT] * 4),
    ]
    outcomes = asyncio.run(CallScorer(scorer).score_together(calls))
    for outcome, mu in zip((*outcomes[:4], outcomes[8]), (*expected.mu, expected.mu), strict=True):
        assert isinstance(outcome, Scores)
        np.testing.assert_allclose(outcome.mu, mu, rtol=1e-3, atol=1e-5)
    errors = [type(outcome) for outcome in outcomes[4:7]]
    assert errors == [RuntimeError, InputError, ImageError]
    assert isinstance(outcomes[7], Scores) and outcomes[7].mu.shape == (0,)
    assert batches[0] == 11  # the calls were combined first

    batches.clear()
    asyncio.run(CallScorer(scorer).score_together([calls[0], calls[1], calls[8]]))
    assert batches == [6]  # nothing is scored twice if nothing fails

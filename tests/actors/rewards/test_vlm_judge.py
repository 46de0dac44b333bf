"""The grade in the answer of the VLM judge, and the retries that it counts."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from actors.rewards.vlm_judge import JudgeReward, parse_grade
from actors.services.keys import Key
from conf.rewards import JudgeSettings
from tests.support.openai_server import Behaviour, serving


@pytest.mark.parametrize(("answer", "grade"), [("7", 7.0), ("Grade: 8.5", 8.5)])
def test_a_grade_is_one_number_from_0_to_10(answer: str, grade: float) -> None:
    assert parse_grade(answer) == grade


@pytest.mark.parametrize("answer", ["11", "7 of 10", "none"])
def test_every_other_answer_has_no_grade(answer: str) -> None:
    assert np.isnan(parse_grade(answer))


def test_the_retries_of_a_judge_are_counted_once() -> None:
    images = np.zeros((2, 8, 8, 3), np.uint8)
    images[1] += 9
    with serving(Behaviour({"429": 1.0}, reply=lambda body, untrue: "7")) as url:

        async def score_twice() -> list[tuple[list[float], int]]:
            reward = JudgeReward(JudgeSettings(url=url, model="judge"), Key("sk"))
            found = [await reward.score(images, ["a red circle", "a blue square"]) for _ in range(2)]
            return [(scores.mu.tolist(), scores.retries) for scores in found]

        first, second = asyncio.run(score_twice())
    assert first == ([7.0, 7.0], 2), "every question is asked again after a 429"
    assert second[0] == [7.0, 7.0] and second[1] == 0, "the server refuses a question once only"

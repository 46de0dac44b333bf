"""Several rewards at once: the exact checker and a judge that answers over HTTP on this machine."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import ray

from actors.judge import grade_in
from conf import SettingsError, load
from pipelines.policy.reward_mix import start_rewards
from pipelines.scenes.grammar import parse
from pipelines.scenes.render import lay_out, render
from tests.openai_server import Behaviour, Refusing, serving

KEY = "sk-secret-of-the-test"


def grade(body: dict[str, Any], untrue: bool) -> str:
    """Grades 7, and refuses the question about a green object."""
    if "green" in body["messages"][0]["content"][1]["text"]:
        raise Refusing
    return "7"


@pytest.mark.ray
def test_rewards_are_weighed_and_a_failed_grade_fails_its_image_only(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPATIALT2I_TEST_KEY", KEY)
    texts = [
        "a red circle left of a blue square",
        "a red circle right of a blue square",
        "a green circle above a red square",
    ]
    rng = np.random.default_rng(0)
    pictures = [render(lay_out(parse(text), rng), rng) for text in (texts[0], texts[0], texts[2])]
    behaviour = Behaviour({"429": 1.0}, speak=grade)
    with serving(behaviour) as url:
        settings = load("scenes", [
            "mix.spatialscore=0", "mix.rules=2", "mix.judge=0.5", f"judge.url={url}", "judge.model=judge",
            "judge.key_variable=SPATIALT2I_TEST_KEY",
        ])  # fmt: skip
        rewards = start_rewards(settings)
        try:
            scores = asyncio.run(rewards.score(ray.put(np.stack(pictures)), texts))
        finally:
            rewards.stop()
    assert scores.mu[:2].tolist() == pytest.approx([2 * 1.0 + 0.5 * 7, 2 * 2 / 3 + 0.5 * 7])
    assert np.isnan(scores.mu[2])
    assert sorted(behaviour.seen.values()) == [2, 2, 2], "every question is asked again after a 429"
    assert behaviour.keys == {f"Bearer {KEY}"} and {body["model"] for body in behaviour.bodies} == {"judge"}
    (picture, _) = behaviour.bodies[0]["messages"][0]["content"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,")


def test_a_mix_that_cannot_be_is_refused() -> None:
    with pytest.raises(SettingsError, match="whose weight is not 0"):
        load("scenes", ["mix.spatialscore=0"])
    with pytest.raises(ValueError, match="pictures of the scenes world only"):
        start_rewards(load("flux_dev", ["mix.rules=1"]))


@pytest.mark.parametrize(
    ("answer", "grade"), [("7", 7.0), ("Grade: 8.5", 8.5), ("11", None), ("7 of 10", None), ("none", None)]
)
def test_a_grade_is_one_number(answer: str, grade: float | None) -> None:
    assert np.isnan(grade_in(answer)) if grade is None else grade_in(answer) == grade

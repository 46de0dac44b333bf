"""Which rewards the page shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from actors.workers.serve_start import StartError
from conf import Settings, UserError, load
from pipelines.play.rewards import shown_rewards, start_shown
from pipelines.policy import rewards
from pipelines.policy.rewards import start_rewards


def test_spatialscore_comes_first_if_there_is_one_and_rules_of_the_run_s_prompts_are_left_out(tmp_path: Path) -> None:
    own = ["rewards.mine.kind=python", "rewards.mine.path=a:b", "rewards.mine.max_replicas=4", "serving.min_replicas=2"]
    words = [f"run_dir={tmp_path}", *own, "rewards.rules.weight=0", "rewards.detector.weight=1"]
    words += ["rewards.boxes.kind=depth_rules", "rewards.boxes.weight=1"]
    assert sorted(shown_rewards(load("scenes", words))) == ["mine", "rules"]
    (tmp_path / "reward" / "model").mkdir(parents=True)
    shown = shown_rewards(load("scenes", words))
    assert next(iter(shown)) == "SpatialScore" and sorted(shown) == ["SpatialScore", "mine", "rules"]
    assert {request.count for request in shown.values()} == {1}
    assert list(shown_rewards(load("scenes", [*words, "rewards.mine=0", "rewards.rules=0"]))) == ["SpatialScore"]


@pytest.mark.parametrize("start", [lambda settings: start_shown(settings, "play"), start_rewards])
def test_a_reward_that_does_not_start_stops_those_that_have_started(
    start: Callable[[Settings], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[str] = []

    def serve_all_but_mine(application: object, name: str, deployment: str, retries: int) -> SimpleNamespace:
        if name.startswith("mine"):
            raise StartError("rewards.mine.path=a:b cannot be loaded")
        return SimpleNamespace(stop=lambda: stopped.append(name.rpartition("-")[0]))

    monkeypatch.setattr(rewards, "serve_replicas", serve_all_but_mine)
    own = ["rewards.mine.kind=python", "rewards.mine.path=a:b", "rewards.mine.weight=1", "rewards.spatialscore=0"]
    with pytest.raises(UserError, match="cannot be loaded"):
        start(load("scenes", ["rewards.rules=1", *own]))
    assert stopped == ["rules"]

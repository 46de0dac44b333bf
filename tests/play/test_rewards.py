"""Which rewards the page shows."""

from __future__ import annotations

from pathlib import Path

from conf import load
from pipelines.play.rewards import shown_rewards


def test_spatialscore_comes_first_if_there_is_one_and_the_detector_is_left_out(tmp_path: Path) -> None:
    own = ["rewards.mine.kind=python", "rewards.mine.path=a:b", "rewards.mine.max_replicas=4", "serving.min_replicas=2"]
    words = [f"run_dir={tmp_path}", *own, "rewards.rules.weight=0", "rewards.detector.weight=1"]
    assert sorted(shown_rewards(load("scenes", words))) == ["mine", "rules"]
    (tmp_path / "reward" / "model").mkdir(parents=True)
    shown = shown_rewards(load("scenes", words))
    assert next(iter(shown)) == "SpatialScore" and sorted(shown) == ["SpatialScore", "mine", "rules"]
    assert {request.count for request in shown.values()} == {1}
    assert list(shown_rewards(load("scenes", [*words, "rewards.mine=0", "rewards.rules=0"]))) == ["SpatialScore"]

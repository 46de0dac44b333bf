"""A reward with packages that only its replicas have. pip and uv install them from the index of `make setup`."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import ray

from conf import load
from pipelines.policy.rewards import start_rewards

PACKAGE = "toolz"
"""Without dependencies, of 56 kB, and not needed by anything else here."""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_a_replica_has_the_packages_that_its_reward_names(
    installer: str, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert importlib.util.find_spec(PACKAGE) is None, "the test needs a package that is not installed"
    source = f"import {PACKAGE}\n\ndef known(images, prompts):\n    return [{PACKAGE}.count(prompts)] * len(prompts)\n"
    (tmp_path / "packaged_reward.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    words = ["rewards.spatialscore=0", "rewards.mine.kind=python", "rewards.mine.path=packaged_reward:known"]
    environment = f"rewards.mine.runtime_env.{installer}=[{PACKAGE}==1.0.0]"
    rewards = start_rewards(load("scenes", [f"run_dir={tmp_path}", *words, "rewards.mine.weight=1", environment]))
    try:
        scores = asyncio.run(rewards.score(ray.put(np.zeros((3, 16, 16, 3), np.uint8)), ["a"] * 3))
    finally:
        rewards.stop()
    assert scores.mu.tolist() == [3.0] * 3

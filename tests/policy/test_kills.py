"""The promise: kill anything at any time, and the run finishes with the adapter of an undisturbed one, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.ray
@pytest.mark.slow
def test_random_kills_change_nothing() -> None:
    """At least 20 kills, every kind among them; see kills.py. In a process of its own: it starts three raylets."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.policy.kills"],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["same_state"] and report["exported"]
    assert len(report["kinds"]) >= 20 and set(report["kinds"]) == {
        "rollout actor", "reward replica", "learner rank", "Serve controller", "Serve proxy", "worker node", "driver",
    }  # fmt: skip

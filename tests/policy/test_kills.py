"""Kill any process at any time: the run finishes with the adapter of an undisturbed run, bit for bit."""

from __future__ import annotations

import json

import pytest

from tests.support.alone import run_alone


@pytest.mark.ray
@pytest.mark.slow
def test_random_kills_change_nothing() -> None:
    """At least 20 kills, every kind among them; see kills.py."""
    report = json.loads(run_alone("tests.policy.kills").splitlines()[-1])
    assert report["same_state"] and report["exported"]
    assert len(report["kinds"]) >= 20 and set(report["kinds"]) == {
        "rollout actor", "reward replica", "learner rank", "Serve controller", "Serve proxy", "worker node", "driver",
    }  # fmt: skip

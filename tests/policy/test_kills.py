"""Kill any process at any time: the run finishes with the adapter of an undisturbed run, bit for bit."""

from __future__ import annotations

import json

import pytest

from tests.policy.kill_scenarios import SCENARIOS
from tests.support.alone import run_alone


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_random_kills_change_nothing(name: str) -> None:
    """Every kind of process is killed, colocated workers with a node among them; see kills.py."""
    report, scenario = json.loads(run_alone("tests.policy.kills", name).splitlines()[-1]), SCENARIOS[name]
    assert report["same_state"] and report["exported"]
    killed = [*(kind for kinds in scenario.kills for kind in kinds), scenario.last, "driver"]
    assert sorted(report["kinds"]) == sorted(killed)

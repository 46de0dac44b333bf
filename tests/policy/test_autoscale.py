"""Ray's own autoscaler, with nodes of this machine, adds one for a pending replica and releases it when it is idle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.ray
@pytest.mark.slow
def test_a_node_is_added_for_a_pending_replica_and_released() -> None:
    """The head has no room. autoscale.py ends well only when the pool scored, was stopped, and the node was gone."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.policy.autoscale"],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["nodes"] == 2 and report["score"]

"""Ray's own autoscaler, with nodes of this machine, adds one for a pending replica and releases it when it is idle."""

from __future__ import annotations

import json

import pytest

from tests.support.alone import run_alone


@pytest.mark.ray
@pytest.mark.slow
def test_a_node_is_added_for_a_pending_replica_and_released() -> None:
    """The head has no room. autoscale.py ends well only when the pool scored, was stopped, and the node was gone."""
    report = json.loads(run_alone("tests.policy.autoscale").splitlines()[-1])
    assert report["nodes"] == 2 and report["score"]

"""Ray's autoscaler, with nodes on this machine, adds one for a pending replica and removes it when it is idle."""

from __future__ import annotations

import json

import pytest

from tests.support.alone import run_alone


@pytest.mark.ray
@pytest.mark.slow
def test_a_node_is_added_for_a_pending_replica_and_removed() -> None:
    """The head has no CPU. autoscale.py succeeds only if the pool scored, was stopped, and the node was removed."""
    report = json.loads(run_alone("tests.policy.autoscale").splitlines()[-1])
    assert report["nodes"] == 2 and report["score"]

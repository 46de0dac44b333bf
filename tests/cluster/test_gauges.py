"""The gauges that alerts depend on: exported from the driver's start to its end, and again after each export."""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar

import pytest

from cluster.alert import PROGRESS_TIME
from cluster.fault_alerts import FINISHED_TIME
from cluster.panels import policy
from pipelines.common.paths import RunPaths
from pipelines.policy import gauges as gauges_module
from pipelines.policy.gauges import RunGauges
from pipelines.policy.run_log import RunLog


class FakeGauge:
    """A gauge of Ray, without Ray: it has a value until it is exported (removed from `values`)."""

    values: ClassVar[dict[str, float]] = {}

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name = f"ray_{name}"

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.values[self.name] = value


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The values of all gauges that were not exported yet. Gauges are set again every 10 ms."""
    values: dict[str, float] = {}
    monkeypatch.setattr(gauges_module, "Gauge", FakeGauge)
    monkeypatch.setattr(gauges_module, "REPEAT_PERIOD_S", 0.01)
    monkeypatch.setattr(FakeGauge, "values", values)
    return values


def test_a_driver_exports_its_start_again_and_again_until_it_closes(tmp_path: Path, values: dict[str, float]) -> None:
    RunLog(RunPaths(tmp_path)).close()
    before = time.time()
    log = RunLog(RunPaths(tmp_path))
    started = values[PROGRESS_TIME]
    assert before <= started <= time.time()
    assert values[policy("driver_starts")] == 2 and policy("iteration_seconds") not in values
    values.clear()  # exported
    deadline = time.monotonic() + 10
    while len(values) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert values == {PROGRESS_TIME: started, policy("driver_starts"): 2}
    log.close()
    time.sleep(0.1)  # a repetition may be running
    values.clear()
    time.sleep(0.1)
    assert not values


def test_a_gauge_without_a_number_is_not_exported_again(tmp_path: Path, values: dict[str, float]) -> None:
    gauges = RunGauges(tmp_path)
    gauges.set("policy_kl", 0.5, "")
    assert values["ray_spatialt2i_policy_kl"] == 0.5
    gauges.set("policy_kl", float("nan"), "")
    values.clear()  # exported
    time.sleep(0.1)
    assert not values
    gauges.close()


def test_a_run_that_ends_well_says_so_after_its_last_version(tmp_path: Path, values: dict[str, float]) -> None:
    log = RunLog(RunPaths(tmp_path))
    assert FINISHED_TIME not in values
    log.finish()
    assert values[FINISHED_TIME] >= values[PROGRESS_TIME]
    log.close()

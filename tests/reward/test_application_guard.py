"""Serve applications whose driver is gone end after a while; those of a living driver stay."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray import serve

from actors.workers.application_guard import NAMESPACE, GuardedApplications
from actors.workers.reward import application_name
from conf import load
from pipelines.reward.guarded import guarded_applications

pytestmark = pytest.mark.ray

LIMIT_S = 3.0


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Replica:
    """Does nothing."""


@pytest.fixture
def applications(ray_cluster: None, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The applications of two runs, by name."""
    serve.start(proxy_location="Disabled")
    names = [application_name("spatialscore", f"{tmp_path}/{run}") for run in ("mine", "other")]
    for name in names:
        serve.run(Replica.bind(), name=name, route_prefix=None)
    yield names[0], names[1]
    for name in names:
        serve.delete(name)


def guards() -> list[str]:
    return [
        actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True) if actor["namespace"] == NAMESPACE
    ]


def test_the_applications_of_a_killed_driver_end_and_those_of_a_living_one_stay(
    applications: tuple[str, str], tmp_path: Path
) -> None:
    mine, other = applications
    first = GuardedApplications(f"{tmp_path}/mine", LIMIT_S)
    time.sleep(2 * LIMIT_S)
    assert {mine, other} <= serve.status().applications.keys()  # it gives signs of life
    first._closed.set()  # as if it were killed: its guard stays
    second = GuardedApplications(f"{tmp_path}/mine", LIMIT_S)  # its successor
    time.sleep(2 * LIMIT_S)
    assert mine in serve.status().applications and len(guards()) == 1
    second._closed.set()
    deadline = time.monotonic() + 60
    while mine in serve.status().applications and time.monotonic() < deadline:
        time.sleep(0.1)
    third = GuardedApplications(f"{tmp_path}/mine", 60.0)  # comes while the guard is ending
    assert other in serve.status().applications and mine not in serve.status().applications
    assert len(guards()) == 1
    third.close()


def test_a_driver_that_ends_takes_its_guard_along(ray_cluster: None, tmp_path: Path) -> None:
    settings = load("scenes", [f"run_dir={tmp_path}", "ray_address=auto"])
    with guarded_applications(settings, settings.run_dir):
        assert len(guards()) == 1
    deadline = time.monotonic() + 30
    while guards() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert guards() == []
    GuardedApplications(settings.run_dir, LIMIT_S)._closed.set()  # of a driver that was killed
    never = load("scenes", [f"run_dir={tmp_path}", "ray_address=auto", "serving.orphan_minutes=0"])
    with guarded_applications(never, never.run_dir):
        assert guards() == []
    with guarded_applications(load("scenes", [f"run_dir={tmp_path}"]), str(tmp_path)):
        assert guards() == []  # a private cluster ends with its driver

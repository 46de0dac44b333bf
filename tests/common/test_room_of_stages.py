"""Stages 1, 2 and 4 refuse work that a cluster can never hold, and say what they wait for."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from conf import UserError, load
from pipelines.common.cluster_state import Bundle, ClusterState, NodeResources, read_cluster
from pipelines.common.resource_wait import logging_waits
from pipelines.common.resources import ResourceRequest, check_each, check_requests
from pipelines.evaluation.run import actor_requests
from pipelines.preferences.build import build_preferences
from pipelines.preferences.resources import generator_requests
from pipelines.reward.train import worker_request

TWO = ResourceRequest("actors", 2, 1.0, 1.0, "", "actors.cpus")


def test_a_wait_is_said_while_it_lasts_and_an_unreadable_state_does_not_end_it() -> None:
    node = NodeResources(cpus=4.0, gpus=1.0, free_cpus=4.0, free_gpus=0.0)
    waiting, placed = ClusterState((node,), frozenset({Bundle(1.0, 1.0)})), ClusterState((node,), frozenset())
    states: list[ClusterState | None] = [placed, None, waiting, placed]
    lines: list[str] = []

    def read() -> ClusterState:
        state = states.pop(0) if len(states) > 1 else states[0]
        if state is None:
            raise RuntimeError("no answer")
        return state

    with logging_waits([TWO, replace(TWO, role="others", cpus=2.0)], lines.append, 0.01, read):
        deadline = time.monotonic() + 20
        while len(states) > 1 and time.monotonic() < deadline:
            time.sleep(0.01)
    (line,) = lines
    assert line.startswith("waiting for 2 actors of 1 CPUs and 1 GPUs: 2 GPUs requested, 1 registered, 0 free")


def test_the_requests_are_those_of_the_settings() -> None:
    settings = load("flux_dev", ["reward.min_workers=4"])
    workers = worker_request(settings.reward)
    assert (workers.count, workers.cpus, workers.gpus) == (4, settings.reward.cpus_per_worker, 1.0)
    generators = {one.role: one for one in generator_requests(settings, ["qwen_image", "hunyuan_image", "seedream"])}
    assert {role: (one.count, one.gpus) for role, one in generators.items()} == {
        "qwen_image actors": (4, 1.0),
        "hunyuan_image actors": (4, 1.0),
    }
    policy, scorer = actor_requests(settings)
    samplers = settings.policy.samplers
    assert (policy.count, policy.cpus, policy.gpus) == (settings.policy.sampler_count, samplers.cpus, samplers.gpus)
    assert (scorer.count, scorer.gpus) == (1, settings.serving.gpus)
    (base,) = generator_requests(load("scenes", []), ["renderer", "base"])
    assert (base.count, base.cpus) == (2, 0.1)


@pytest.mark.ray
def test_what_never_fits_is_refused_before_the_start(ray_cluster: None, tmp_path: Path) -> None:
    settings = load("scenes", [f"run_dir={tmp_path}", "preferences.pairs=10", "preferences.generator_cpus=1000"])
    with pytest.raises(UserError, match=r"needs 1 base policy actors of 1000 CPUs.*lower preferences\.generator_cpus"):
        build_preferences(settings)
    check_each(settings, [replace(TWO, count=10**6, cpus=0.1, gpus=0.0)])  # one after another
    with pytest.raises(UserError, match=r"needs .*1000000 actors"):
        check_requests(settings, [replace(TWO, count=10**6, cpus=0.1, gpus=0.0)])


@pytest.mark.ray
def test_an_actor_without_a_node_is_said(ray_cluster: None) -> None:
    @ray.remote(num_cpus=1000)
    class Large:
        pass

    lines: list[str] = []
    large: Any = Large.remote()
    try:
        request = ResourceRequest("large actors", 1, 1000.0, 0.0, "", "")
        with logging_waits([request], lines.append, 0.2, read_cluster):
            deadline = time.monotonic() + 30
            while not lines and time.monotonic() < deadline:
                time.sleep(0.1)
    finally:
        ray.kill(large)
    assert lines and lines[0].startswith("waiting for 1 large actors of 1000 CPUs and 0 GPUs: 1000 CPUs requested")

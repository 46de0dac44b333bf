"""What the roles of a run request, the check of a private cluster, and the messages of a run that waits."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import ray
from ray.exceptions import RayError

from actors.policy.plan import SamplingPlan
from conf import UserError, load, presets
from pipelines.common.cluster_state import NodeResources, read_cluster
from pipelines.common.resource_wait import describe_shortage, describe_wait, wait_with_status
from pipelines.common.resources import ResourceRequest, unschedulable
from pipelines.policy.resources import check_capacity, learner_request, resource_requests

RANKS = ResourceRequest("learner ranks", 2, 1.0, 1.0, "", "policy.learner.ranks", "strict_spread")
PACKED = replace(RANKS, placement="strict_pack")
EIGHT = ResourceRequest("learner ranks", 8, 4.0, 1.0, "", "")


def node(cpus: float, gpus: float = 0.0, group: str = "", free: tuple[float, float] | None = None) -> NodeResources:
    """A node; `free` CPUs and GPUs, by default all of them."""
    free_cpus, free_gpus = free or (cpus, gpus)
    return NodeResources(cpus, gpus, free_cpus, free_gpus, group)


def gpu_roles(*gpus: float) -> list[ResourceRequest]:
    """One role for each fraction of a GPU."""
    return [ResourceRequest(f"role {number}", 1, 0.1, each, "", "hint") for number, each in enumerate(gpus)]


def test_fractions_of_a_gpu_are_summed_without_rounding_errors() -> None:
    """0.1 + 0.2 is more than 0.3 in floats. Ray counts ten-thousandths."""
    assert unschedulable(gpu_roles(0.1, 0.2, 0.7), [node(8, 1)]) == ""
    assert unschedulable(gpu_roles(*[0.1] * 10), [node(8, 1)]) == ""
    assert unschedulable(gpu_roles(1 / 3, 1 / 3, 1 / 3), [node(8, 1)]) == ""
    assert "The cluster has 8 CPUs and 1 GPUs on 1 nodes" in unschedulable(
        gpu_roles(0.4, 0.4, 0.2, 0.0001), [node(8, 1)]
    )


def test_fractions_need_one_gpu_that_has_them_left() -> None:
    """The sums fit: 4 x 0.7 + 2 x 0.4 is 3.6 of 4 GPUs. But beside 0.7 there is no room for 0.4."""
    workers = ResourceRequest("policy workers", 4, 1.0, 0.7, "", "policy.learner.gpus")
    replicas = ResourceRequest("replicas", 2, 1.0, 0.4, "", "serving.gpus")
    message = unschedulable([workers, replicas], [node(8, 2), node(8, 2)])
    assert "2 replicas of 1 CPUs and 0.4 GPUs, but the 4 GPUs of the cluster have room for 0 beside 4 policy" in message
    assert message.endswith("lower serving.gpus or policy.learner.gpus, or add nodes")
    for fitting in (replace(replicas, gpus=0.3), replace(replicas, gpus=0.3, count=4)):
        assert unschedulable([workers, fitting], [node(8, 4)]) == ""
    assert unschedulable([replace(workers, count=3), replicas], [node(8, 4)]) == ""
    assert unschedulable([replace(workers, count=3, gpus=1.0), replicas], [node(8, 4)]) == ""


def test_every_process_needs_a_node_that_is_large_enough() -> None:
    two = [node(8, 1), node(8, 1)]
    message = unschedulable([ResourceRequest("replicas", 1, 1.0, 2.0, "", "serving.gpus")], two)
    assert message == (
        "a run needs 1 replicas of 1 CPUs and 2 GPUs, but only 0 of the 2 nodes of the cluster are large enough: "
        "lower serving.gpus, or add nodes"
    )
    assert unschedulable([ResourceRequest("replicas", 2, 8.0, 1.0, "", "")], two) == ""


def test_strict_spread_needs_a_node_for_each_rank() -> None:
    message = unschedulable([RANKS], [node(8, 8)])
    assert "2 learner ranks of 1 CPUs and 1 GPUs, each on another node, but only 1 of the 1 nodes" in message
    assert message.endswith("lower policy.learner.ranks, set policy.learner.placement=pack, or add nodes")
    assert unschedulable([RANKS], [node(1, 1), node(1, 1)]) == ""
    assert unschedulable([replace(RANKS, placement="spread")], [node(8, 8)]) == ""
    grouped = replace(RANKS, node_group="learners")
    assert "only 1 of the 2 nodes" in unschedulable([grouped], [node(1, 1, "learners"), node(1, 1, "others")])


def test_strict_pack_needs_one_node_for_all_ranks() -> None:
    message = unschedulable([PACKED], [node(8, 1), node(8, 1)])
    assert "2 learner ranks of 1 CPUs and 1 GPUs, all on one node, but only 0 of the 2 nodes" in message
    assert "policy.learner.placement=pack" in message
    assert unschedulable([PACKED], [node(8, 1), node(8, 2)]) == ""
    assert unschedulable([replace(PACKED, placement="pack")], [node(8, 1), node(8, 1)]) == ""


def test_roles_of_a_node_group_must_fit_into_the_group() -> None:
    rank = ResourceRequest("learner ranks", 2, 1.0, 0.0, "head", "policy.learner.cpus")
    other = ResourceRequest("rollout actors", 1, 1.0, 0.0, "", "policy.rollout.cpus")
    assert unschedulable([rank, other], [node(2, group="head"), node(1)]) == ""
    message = unschedulable([rank, other], [node(1, group="head"), node(2)])
    assert "The node group head has 1 CPUs and 0 GPUs on 1 nodes: lower policy.learner.cpus, or add nodes" in message
    message = unschedulable([rank, other], [node(2, group="head")])
    assert "The cluster has 2 CPUs" in message and "policy.learner.cpus or policy.rollout.cpus" in message


def test_the_request_of_the_learner_has_the_placement_of_the_settings() -> None:
    ranks = ["policy.learner.ranks=2", "policy.learner.engine=deepspeed"]
    spread = load("scenes", [*ranks, "policy.learner.placement=strict_spread"])
    assert learner_request(spread.policy).placement == "strict_spread"
    assert "policy.learner.placement=pack" in unschedulable(resource_requests(spread), [node(64, 8)])
    assert unschedulable(resource_requests(load("scenes", ranks)), [node(64, 8)]) == ""


@pytest.mark.parametrize(
    ("request_", "nodes", "message"),
    [
        (
            EIGHT,
            [node(40, 5, free=(40, 1))],
            "8 GPUs requested, 5 registered, 1 free; 32 CPUs requested, 40 registered, 40 free on 1 nodes",
        ),
        (
            EIGHT,
            [node(16, 8)],
            "8 GPUs requested, 8 registered, 8 free; 32 CPUs requested, 16 registered, 16 free on 1 nodes",
        ),
        (
            replace(EIGHT, gpus=0.0, cpus=0.1),
            [node(4, free=(0.3, 0))],
            "0.8 CPUs requested, 4 registered, 0.3 free on 1 nodes",
        ),
        (
            replace(EIGHT, node_group="learners"),
            [node(32, 8), node(32, 4, "learners", free=(8, 2))],
            "8 GPUs requested, 4 registered, 2 free; 32 CPUs requested, 32 registered, 8 free on 1 nodes of group "
            "learners",
        ),
        (  # one node has the GPUs, the other one the CPUs
            EIGHT,
            [node(2, 8), node(32)],
            "8 GPUs requested, 8 registered, 8 free; 32 CPUs requested, 34 registered, 34 free on 2 nodes; "
            "0 of the nodes have enough free for one of them",
        ),
        (
            PACKED,
            [node(8, 2, free=(8, 1)), node(8, 2, free=(8, 1))],
            "2 GPUs requested, 4 registered, 2 free; 2 CPUs requested, 16 registered, 16 free on 2 nodes; "
            "0 of the nodes have enough free for all of them",
        ),
        (
            RANKS,
            [node(8, 8), node(8)],
            "2 GPUs requested, 8 registered, 8 free; 2 CPUs requested, 16 registered, 16 free on 2 nodes; "
            "1 of the nodes have enough free for one of them, and 2 such nodes are needed",
        ),
    ],
)
def test_a_shortage_is_described_in_numbers(
    request_: ResourceRequest, nodes: list[NodeResources], message: str
) -> None:
    assert describe_shortage(request_, nodes) == message


@pytest.mark.ray
def test_the_state_of_the_cluster_is_read_from_ray(ray_cluster: None) -> None:
    """The test session's Ray has four CPUs on one node, without a group."""
    (only,) = read_cluster().nodes
    assert (only.cpus, only.gpus, only.group) == (4.0, 0.0, "") and 0 < only.free_cpus <= 4
    message = describe_shortage(ResourceRequest("replicas", 3, 2.0, 0.0, "elsewhere", ""), [only])
    assert message == "6 CPUs requested, 0 registered, 0 free on 0 nodes of group elsewhere"


@pytest.mark.ray
def test_only_a_private_cluster_is_checked_before_the_start(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes may be added to every other cluster."""
    too_much = ["policy.learner.ranks=2", "policy.learner.engine=deepspeed", "policy.learner.gpus=1"]
    with pytest.raises(UserError, match=r"2 learner ranks of 0\.1 CPUs and 1 GPUs, but only 0 of the 1 nodes"):
        check_capacity(load("scenes", too_much))
    with pytest.raises(UserError, match=r"on nodes of group samplers.*lower policy\.rollout\.min_actors"):
        check_capacity(load("scenes", ["policy.rollout.node_group=samplers"]))
    check_capacity(load("scenes", ["policy.rollout.max_actors=64"]))  # the run starts with min_actors
    check_capacity(load("scenes", [*too_much, "ray_address=auto"]))
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")  # a submitted job runs on the cluster it was submitted to
    check_capacity(load("scenes", too_much))


class Loading:
    """An actor that loads until `gates` are ready."""

    def __init__(self, gates: list[ray.ObjectRef[None]]) -> None:  # in a list, so that Ray does not wait for them first
        ray.get(gates)

    def ready(self) -> None:
        """Returns when it is loaded."""


def wait_until(condition: Callable[[], bool]) -> None:
    """Polls for at most 30 s."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.ray
def test_an_actor_that_loads_is_told_from_one_that_has_no_node(ray_cluster: None) -> None:
    """Both actors need 3 of the 4 CPUs. The first loads; Ray cannot place the second before the first is gone."""

    @ray.remote(num_cpus=0)
    def gate() -> None:
        time.sleep(60)

    closed = cast(Any, gate).remote()
    request = ResourceRequest("loaders", 1, 3.0, 0.0, "", "")
    start: Any = ray.remote(Loading).options(num_cpus=3.0).remote
    first = start([closed])
    wait_until(lambda: read_cluster().nodes[0].free_cpus <= 1)
    wait_until(lambda: not read_cluster().is_pending(3.0, 0.0))
    assert describe_wait(request, read_cluster()) == "waiting for 1 loaders to load: all of them have a node"
    second = start([closed])
    wait_until(lambda: read_cluster().is_pending(3.0, 0.0))
    found = re.fullmatch(
        r"waiting for 1 loaders of 3 CPUs and 0 GPUs: 3 CPUs requested, 4 registered, ([\d.]+) free on 1 nodes",
        describe_wait(request, read_cluster()),
    )
    assert found and float(found[1]) <= 1
    messages: list[str] = []

    async def wait() -> None:
        await wait_with_status(
            second.ready.remote(), [request], messages.append, on_wait=lambda: ray.kill(first), period_s=0.3
        )

    ray.cancel(closed, force=True)  # the loaders fail, which ends the wait
    with pytest.raises(RayError):
        asyncio.run(wait())
    assert messages and messages[0].startswith("waiting for 1 loaders")
    ray.kill(second)


@pytest.mark.parametrize("preset", [name for name in presets() if load(name).flux.dtype == "bfloat16"])
def test_presets_replay_in_the_batch_shape_of_the_sampler(preset: str) -> None:
    """In bfloat16 a forward pass of another shape rounds differently, and the on-policy gate may refuse it."""
    policy = load(preset, ["policy.prompts=mine.jsonl"]).policy
    trained = len(SamplingPlan.for_training(policy).train_steps)
    kept = 2 * policy.algorithm.top_k or policy.group_size
    assert policy.learner.replay_batch == policy.sampling.batch and kept * trained % policy.learner.replay_batch == 0

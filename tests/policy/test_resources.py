"""What must be there before a run starts: room for its roles, and prompts. And what is said where it is not."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray._private.state import state

from actors.policy.plan import SamplingPlan
from conf import load, presets
from pipelines.common.prompts import draw_held_out_prompts, evaluation_notice
from pipelines.policy.resource_wait import describe_shortage, describe_wait
from pipelines.policy.resources import (
    NodeResources,
    ResourceRequest,
    learner_request,
    pending_actors,
    place,
    resource_requests,
    unschedulable,
)
from pipelines.policy.train import check_start

RANKS = ResourceRequest("learner ranks", 2, 1.0, 1.0, "", "policy.learner.ranks", "strict_spread")
PACKED = replace(RANKS, placement="strict_pack")


def shares(*gpus: float) -> list[ResourceRequest]:
    """One role for each share of a GPU."""
    return [ResourceRequest(f"role {number}", 1, 0.1, share, "", "") for number, share in enumerate(gpus)]


def test_shares_of_a_gpu_are_summed_as_ray_does() -> None:
    """In floats 1 - 0.4 - 0.4 is less than 0.2. Ray rounds to ten-thousandths: three thirds leave one of them."""
    one = [NodeResources(8.0, 1.0)]
    assert unschedulable(shares(0.4, 0.4, 0.2), one) == ""
    assert unschedulable(shares(1 / 3, 1 / 3, 1 / 3, 0.0001), one) == ""
    assert "1 of the role 3 have no place" in unschedulable(shares(0.4, 0.4, 0.2, 0.0001), one)
    assert unschedulable(shares(*[0.1] * 10), one) == ""
    assert (one[0].cpus, one[0].gpus) == (8.0, 1.0), "what is only asked about is not taken"


def test_a_share_is_of_one_gpu() -> None:
    """Three of 0.6 do not share two GPUs, though these have 2. Small ones fill what large ones leave."""
    two = [NodeResources(8.0, 2.0)]
    assert "1 of the role 2 have no place" in unschedulable(shares(0.6, 0.6, 0.6), two)
    assert unschedulable(shares(0.6, 0.6, 0.4, 0.4), two) == ""
    assert unschedulable(shares(1.0, 0.5, 0.5), two) == ""
    assert "have no place" in unschedulable(shares(0.5, 2.0), two)
    packed = ResourceRequest("ranks", 2, 1.0, 0.6, "", "", "strict_pack")
    assert unschedulable([packed], two) == "" and "2 of the ranks" in unschedulable([packed], [NodeResources(8.0, 1.0)])


def test_a_rank_on_each_node_needs_as_many_nodes() -> None:
    missing_node = unschedulable([RANKS], [NodeResources(8.0, 8.0)])
    assert "2 learner ranks of 1 CPUs and 1 GPUs, each on a node of its own" in missing_node
    assert "1 of the learner ranks have no place" in missing_node
    assert missing_node.endswith("lower policy.learner.ranks, set policy.learner.placement=pack, or add nodes")
    assert unschedulable([RANKS], [NodeResources(1.0, 1.0), NodeResources(1.0, 1.0)]) == ""
    assert unschedulable([replace(RANKS, placement="spread")], [NodeResources(8.0, 8.0)]) == ""
    grouped = replace(RANKS, nodes="learners")
    assert "1 of the learner ranks" in unschedulable(
        [grouped], [NodeResources(1.0, 1.0, "learners"), NodeResources(1.0, 1.0, "others")]
    )


def test_ranks_that_stay_together_need_one_node_for_all() -> None:
    missing_node = unschedulable([PACKED], [NodeResources(8.0, 1.0), NodeResources(8.0, 1.0)])
    assert "2 learner ranks of 1 CPUs and 1 GPUs, all on one node" in missing_node
    assert "2 of the learner ranks have no place" in missing_node and "policy.learner.placement=pack" in missing_node
    assert unschedulable([PACKED], [NodeResources(8.0, 1.0), NodeResources(8.0, 2.0)]) == ""
    assert unschedulable([replace(PACKED, placement="pack")], [NodeResources(8.0, 1.0), NodeResources(8.0, 1.0)]) == ""


def test_a_strict_placement_leaves_room_for_the_others_where_there_is_any() -> None:
    """The ranks that stay together go first, though each is smaller; those that part take the small nodes."""
    large = ResourceRequest("rollout actors", 1, 1.0, 2.0, "", "")
    small = ResourceRequest("rollout actors", 2, 2.0, 1.0, "", "")
    assert unschedulable([large, replace(PACKED, count=4)], [NodeResources(8.0, 4.0), NodeResources(8.0, 2.0)]) == ""
    assert (
        unschedulable(
            [replace(large, gpus=3.0), RANKS],
            [NodeResources(8.0, 3.0), NodeResources(8.0, 1.0), NodeResources(8.0, 1.0)],
        )
        == ""
    )
    assert unschedulable([small, RANKS], [NodeResources(8.0, 1.0), NodeResources(8.0, 3.0)]) == ""


def test_of_what_an_autoscaler_may_add_nobody_knows_the_nodes() -> None:
    limit = [NodeResources(8.0, 2.0, group=None)]
    assert unschedulable([replace(RANKS, nodes="learners")], limit) == ""
    assert unschedulable([PACKED], limit) == ""
    assert "1 of the learner ranks" in unschedulable([replace(RANKS, count=3)], limit)


def test_no_more_is_taken_than_is_asked_for() -> None:
    rooms = [NodeResources(1.0, 1.0) for _ in range(4)]
    assert place(RANKS, rooms) == 2 and sum(room.gpus for room in rooms) == 2
    assert place(PACKED, rooms) == 0 and place(replace(RANKS, count=3), rooms) == 2


def test_the_placement_that_is_asked_for_is_the_setting() -> None:
    ranks = ["policy.learner.ranks=2", "policy.learner.engine=deepspeed"]
    parted = load("scenes", [*ranks, "policy.learner.placement=strict_spread"])
    assert learner_request(parted.policy).placement == "strict_spread"
    assert "policy.learner.placement=pack" in unschedulable(resource_requests(parted), [NodeResources(64.0, 8.0)])
    assert unschedulable(resource_requests(load("scenes", ranks)), [NodeResources(64.0, 8.0)]) == ""


EIGHT = ResourceRequest("learner ranks", 8, 4.0, 1.0, "", "")


@pytest.mark.parametrize(
    ("demand", "nodes", "free", "told"),
    [
        (
            EIGHT, [NodeResources(40.0, 5.0)], [NodeResources(40.0, 1.0)],
            "8 GPUs wanted, 5 registered, 1 free; 32 CPUs wanted, 40 registered, 40 free on 1 nodes",
        ),
        (  # GPUs enough, CPUs not
            EIGHT, [NodeResources(16.0, 8.0)], [NodeResources(16.0, 8.0)],
            "8 GPUs wanted, 8 registered, 8 free; 32 CPUs wanted, 16 registered, 16 free on 1 nodes",
        ),
        (
            replace(EIGHT, gpus=0.0, cpus=0.1), [NodeResources(4.0, 0.0)], [NodeResources(0.3, 0.0)],
            "0.8 CPUs wanted, 4 registered, 0.3 free on 1 nodes",
        ),
        (  # all of its group, and of its group only
            replace(EIGHT, nodes="learners"), [NodeResources(32.0, 8.0), NodeResources(32.0, 4.0, "learners")],
            [NodeResources(32.0, 8.0), NodeResources(8.0, 2.0, "learners")],
            "8 GPUs wanted, 4 registered, 2 free; 32 CPUs wanted, 32 registered, 8 free on 1 nodes of group learners",
        ),
        (  # one node has the GPUs, the other one the CPUs
            EIGHT, [NodeResources(2.0, 8.0), NodeResources(32.0, 0.0)], [NodeResources(2.0, 8.0), NodeResources(32.0, 0.0)],
            "8 GPUs wanted, 8 registered, 8 free; 32 CPUs wanted, 34 registered, 34 free on 2 nodes, "
            "but node by node only 0 of 8 fit even when idle",
        ),
        (  # others hold one GPU of each node
            ResourceRequest("replicas", 1, 1.0, 2.0, "", ""), [NodeResources(8.0, 2.0), NodeResources(8.0, 2.0)],
            [NodeResources(8.0, 1.0), NodeResources(8.0, 1.0)],
            "2 GPUs wanted, 4 registered, 2 free; 1 CPUs wanted, 16 registered, 16 free on 2 nodes, "
            "but node by node only 0 of 1 fit now",
        ),
        (
            PACKED, [NodeResources(8.0, 2.0), NodeResources(8.0, 2.0)], [NodeResources(8.0, 1.0), NodeResources(8.0, 1.0)],
            "2 GPUs wanted, 4 registered, 2 free; 2 CPUs wanted, 16 registered, 16 free on 2 nodes, "
            "but no single node has all of it now, as policy.learner.placement=strict_pack asks",
        ),
        (
            RANKS, [NodeResources(8.0, 8.0), NodeResources(8.0, 0.0)], [NodeResources(8.0, 8.0), NodeResources(8.0, 0.0)],
            "2 GPUs wanted, 8 registered, 8 free; 2 CPUs wanted, 16 registered, 16 free on 2 nodes, "
            "but only 1 nodes have room for one even when idle, and policy.learner.placement=strict_spread asks for 2",
        ),
        (  # it has its place and loads its model
            PACKED, [NodeResources(8.0, 2.0)], [NodeResources(6.0, 0.0)],
            "2 GPUs wanted, 2 registered, 0 free; 2 CPUs wanted, 8 registered, 6 free on 1 nodes",
        ),
        (replace(EIGHT, gpus=0.0, cpus=0.0), [NodeResources(4.0, 0.0)], [NodeResources(4.0, 0.0)], "no GPUs or CPUs wanted on 1 nodes"),
    ],
)  # fmt: skip
def test_what_is_waited_for_is_told_of_all_that_is_wanted(
    demand: ResourceRequest, nodes: Sequence[NodeResources], free: Sequence[NodeResources], told: str
) -> None:
    assert describe_shortage(demand, nodes, free) == told


@pytest.mark.ray
def test_what_a_cluster_has_is_read_node_by_node(ray_cluster: None) -> None:
    """The session's Ray has four CPUs on one node, and no group."""
    told = describe_wait(ResourceRequest("replicas", 3, 2.0, 0.0, "", ""))
    found = re.fullmatch(r"waiting for 3 .*: 6 CPUs wanted, 4 registered, ([\d.]+) free on 1 nodes", told)
    assert found and 0 < float(found[1]) <= 4
    elsewhere = describe_wait(ResourceRequest("replicas", 3, 2.0, 0.0, "elsewhere", ""))
    assert elsewhere.endswith("6 CPUs wanted, 0 registered, 0 free on 0 nodes of group elsewhere")


class Loading:
    """Loads until the gates open."""

    def __init__(self, gates: list[ray.ObjectRef]) -> None:  # in a list: not awaited before it starts
        ray.get(gates)


@pytest.mark.ray
def test_an_actor_that_loads_is_told_from_one_that_has_no_place(ray_cluster: None) -> None:
    """Of two that want three of the four CPUs one loads, until it is let; the other finds no place."""

    @ray.remote(num_cpus=0)
    def gate() -> None:
        time.sleep(60)

    closed = gate.remote()
    demand = ResourceRequest("loaders", 1, 3.0, 0.0, "", "", actors="Loading")
    start = ray.remote(Loading).options(num_cpus=3.0).remote
    first = start([closed])
    while not any(actor["ActorClassName"] == "Loading" and actor["Pid"] for actor in state.actor_table(None).values()):
        time.sleep(0.05)
    assert describe_wait(demand) == "waiting for 1 loaders to load: they have their places"
    second = start([closed])
    while not pending_actors(demand):
        time.sleep(0.05)
    assert describe_wait(demand).startswith("waiting for 1 loaders of 3 CPUs and 0 GPUs: 3 CPUs wanted, 4 registered, ")
    assert pending_actors(replace(demand, actors="Another")) == 0
    for actor in (first, second):
        ray.kill(actor)
    ray.cancel(closed, force=True)


@pytest.mark.parametrize("preset", [name for name in presets() if load(name).flux.dtype == "bfloat16"])
def test_presets_replay_in_the_sampler_s_shape(preset: str) -> None:
    """In bfloat16 a forward of another shape rounds otherwise, and the gate may shut."""
    policy = load(preset, ["policy.prompts=mine.jsonl"]).policy
    trained = len(SamplingPlan.for_training(policy).train_steps)
    kept = 2 * policy.algorithm.top_k or policy.group_size
    assert policy.learner.replay_batch == policy.sampling.batch and kept * trained % policy.learner.replay_batch == 0


def write(path: Path, *rows: Mapping[str, object]) -> Path:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_run_without_its_prompts_is_refused_before_anything_starts(tmp_path: Path) -> None:
    """Also before Ray: none runs here."""
    good, mend = write(tmp_path / "good.jsonl", {"text": "a cat"}), r"'text' per line; see docs/policy\.md"
    for overrides, message in (
        ([f"policy.prompts={tmp_path}/none.jsonl"], rf"policy\.prompts must name .*none\.jsonl \(No such file.*{mend}"),
        ([f"policy.prompts={tmp_path}"], rf"policy\.prompts must name .*\(Is a directory\).*{mend}"),
        (["policy.prompts=''"], rf"policy\.prompts must name a file of prompts for flux\.model=black.*{mend}"),
        ([f"policy.prompts={write(tmp_path / 'empty.jsonl')}"], rf"policy\.prompts: .*empty\.jsonl holds no .*{mend}"),
        (
            [f"policy.prompts={write(tmp_path / 'a.jsonl', {'text': 7})}"],
            rf"policy\.prompts: .*a\.jsonl:1 must .*{mend}",
        ),
        (
            [f"policy.prompts={good}", f"policy.held_out_prompts={tmp_path}/none.jsonl"],
            rf"policy\.held_out_prompts must name .*none\.jsonl \(No such file.*{mend}",
        ),
        (
            [f"policy.prompts={good}", f"policy.held_out_prompts={write(tmp_path / 'b.jsonl', {'prompt': 'a cat'})}"],
            rf"policy\.held_out_prompts: .*b\.jsonl:1 must .*{mend}",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            check_start(load("flux_dev", overrides))
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=rf"policy\.prompts must name .*binary\.jsonl \('utf-8' codec.*{mend}"):
        check_start(load("flux_dev", [f"policy.prompts={binary}"]))


def test_a_run_that_evaluates_nothing_is_told_so() -> None:
    notice = evaluation_notice(load("flux_dev"))
    assert "policy.evaluation.every=20" in notice and "nothing will be evaluated" in notice
    assert "policy.held_out_prompts" in notice and "\n" not in notice
    for preset, *overrides in (
        ("scenes",), ("flux_dev", "policy.held_out_prompts=mine.jsonl"), ("flux_dev", "policy.evaluation.every=0"),
    ):  # fmt: skip
        assert evaluation_notice(load(preset, overrides)) == ""


def test_all_held_out_prompts_are_used_where_a_file_has_one_kind_only(tmp_path: Path) -> None:
    relation = ["cat", "left of", "dog"]
    short = [{"text": f"short {number}"} for number in range(12)]
    long = [{"text": f"long {number}", "relations": [relation] * 2} for number in range(12)]
    for rows, expected in (
        (short, (8, 0)), (long, (0, 8)), ([*short, *long], (4, 4)), ([*short, *long[:1]], (7, 1)),
        ([*long, *short[:3]], (3, 5)), (short[:3], (3, 0)), ([*short[:3], *long[:2]], (3, 2)),
    ):  # fmt: skip
        path = write(tmp_path / "held_out.jsonl", *rows)
        settings = load("scenes", [f"policy.held_out_prompts={path}", "policy.evaluation.prompts=8"])
        held_out = draw_held_out_prompts(settings.policy, settings.flux, 0)
        assert (len(held_out.short), len(held_out.long)) == expected
        assert len({prompt.text for prompt in (*held_out.short, *held_out.long)}) == sum(expected)

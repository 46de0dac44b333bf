"""The timeline of an iteration, against schedules worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conf import load
from conf.policy import PolicySettings
from pipelines.planning.durations import RoleSeconds
from pipelines.planning.fleet import Machine, machines
from pipelines.planning.timeline import iterate

SECONDS = RoleSeconds(
    chunk_images=2, sample_chunk=10.0, decode_chunk=0.0, encode_prompt=0.0, score_group=1.0, chunk_rows=2,
    rows_per_image=1, accumulate_chunk=4.0, optimizer_step=0.5, publish=0.25, checkpoint=0.0, evaluate_chunk=0.0,
    start_rollout=0.0, start_learner=0.0, calibrated=False,
)  # fmt: skip
"""A chunk of 2 images takes 10 s, a group's score 1 s, a pass of 2 rows 4 s."""


def _policy(*words: str) -> PolicySettings:
    """2 prompts x 4 images: 4 chunks; all images are trained, so a group has 2 passes."""
    return load(
        "scenes",
        ["policy.prompts_per_iteration=2", "policy.group_size=4", "policy.algorithm.top_k=0", "policy.sampling.batch=2",
         "policy.optimizer.steps_per_iteration=1", *words],
    ).policy  # fmt: skip


def test_one_gpu_for_everything_does_one_thing_after_the_other() -> None:
    done = iterate(_policy("policy.placement=colocated"), SECONDS, [Machine(0, samples=True, scores=True)])
    assert done.seconds == 4 * 10 + 2 * 1 + 4 * 4 + 0.5
    assert done.busy == pytest.approx(1.0)


def test_separate_roles_wait_for_each_other() -> None:
    fleet = [Machine(samples=True), Machine(samples=True), Machine(0), Machine(scores=True)]
    done = iterate(_policy(), SECONDS, fleet)
    # Two chunks at a time: the groups are sampled at 10 and 20, scored at 11 and 21; the first is learned meanwhile.
    assert done.seconds == 21 + 2 * 4 + 0.5 + 0.25
    assert (done.sample_seconds, done.score_seconds, done.learn_seconds) == (40, 2, 16.5)


def test_colocated_ranks_sample_first_and_share_what_is_left_to_learn() -> None:
    words = ["policy.placement=colocated", "policy.learner.ranks=4", "policy.learner.engine=deepspeed"]
    fleet = [*(Machine(rank, samples=True) for rank in range(4)), Machine(scores=True)]
    done = iterate(_policy(*words), SECONDS, fleet)
    # All four chunks at 10; scored at 11 and 12; two groups of two passes are one pass for each of four ranks.
    assert done.seconds == 12 + 4 + 0.5


def test_staleness_hides_sampling_behind_learning() -> None:
    slow = replace(SECONDS, accumulate_chunk=40.0)
    fleet = [Machine(samples=True), Machine(0), Machine(scores=True)]
    assert iterate(_policy(), slow, fleet).seconds == 21 + 4 * 40 + 0.75
    assert iterate(_policy("policy.max_staleness=1"), slow, fleet).seconds == 4 * 40 + 0.75


def test_a_replica_beside_a_worker_takes_its_time() -> None:
    words = ["policy.placement=colocated"]
    alone = [Machine(0, samples=True), Machine(scores=True)]
    beside = [Machine(0, samples=True, scores=True)]
    slow = replace(SECONDS, score_group=100.0)
    assert iterate(_policy(*words), slow, beside).seconds == 4 * 10 + 2 * 100 + 4 * 4 + 0.5
    assert iterate(_policy(*words), slow, alone).seconds == 20 + 2 * 100 + 2 * 4 + 0.5


@pytest.mark.parametrize(
    ("preset", "roles"),
    [
        ("flux_dev", {("learn", "sample"): 30, ("score",): 2}),
        ("flux_dev_8gpu", {("learn", "sample"): 7, ("learn", "sample", "score"): 1}),
        ("flux_dev_1gpu", {("learn", "sample", "score"): 1}),
        ("scenes", {}),
    ],
)
def test_the_gpus_of_a_preset(preset: str, roles: dict[tuple[str, ...], int]) -> None:
    found = [machine.roles for machine in machines(load(preset))]
    assert {each: found.count(each) for each in set(found)} == roles

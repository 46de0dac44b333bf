"""What the learner client does when a rank is lost. Without Ray: ranks and collector are plain async objects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from ray.exceptions import ObjectLostError

from actors.grpo.advantages import Advantages, group_advantages
from actors.grpo.learner import OptimizerStepMetrics
from actors.grpo.shares import WHOLE, GroupPart
from actors.types import Conditioning
from actors.workers.learner import LearnerJob, LearnerRank
from actors.workers.learner_group import LearnerLostError
from actors.workers.sampling_calls import WeightsHandle
from conf import load
from conf.flux import FluxSettings
from pipelines.common import resource_wait
from pipelines.policy.checkpoint import Checkpoints
from pipelines.policy.collector import Group, ScoredGroup
from pipelines.policy.learner_client import LearnerClient
from pipelines.policy.timing import IterationTimer

SETTINGS = replace(
    load("scenes").policy,
    group_size=2,
    algorithm=replace(load("scenes").policy.algorithm, top_k=0, advantage_std_over="group"),
    learner=replace(load("scenes").policy.learner, ranks=2, engine="deepspeed"),
)
UNUSED: Any = None


def scored_group(name: str, spread: float) -> ScoredGroup:
    """A group of two images, one trajectory reference a string of its name."""
    scores = np.array([-spread, spread], np.float32)
    group = Group(0, 0, UNUSED, (), UNUSED)
    references = cast(Any, (f"{name}: best", f"{name}: worst"))
    return ScoredGroup(
        group, scores, group_advantages(scores, SETTINGS.algorithm), UNUSED, references, UNUSED, 0.0, 0.0
    )


class TwoRanks:
    """A learner group: rank 0 notes what it is given, rank 1 dies once `dies` is set."""

    ranks = ("rank 0", "rank 1")

    def __init__(self) -> None:
        self.given: list[tuple[int, int, object]] = []  # rank, version, trajectories
        self.lost = {"first: best"}  # trajectories that went with their node
        self.dies = asyncio.Event()
        self.stopped = False

    async def accumulate(
        self,
        rank: int,
        version: int,
        part: GroupPart,
        advantages: Advantages,
        conditioning: object,
        trajectories: tuple[str, ...],
    ) -> None:
        if rank == 1 and not self.stopped:
            await self.dies.wait()
            raise LearnerLostError("rank 1 died")
        if self.lost & set(trajectories):
            raise ObjectLostError("0" * 56, UNUSED, "")
        self.given.append((rank, version, trajectories))

    def stop(self) -> None:
        self.stopped = True


class NoSampling:
    """A rollout pool that no rank joined."""

    @asynccontextmanager
    async def claimed(self, rank: str) -> AsyncGenerator[None]:
        yield

    def sampling_seconds(self, rank: str) -> float:
        return 0.0

    def leave(self) -> None:
        """Nobody joined."""


class SlowCollector:
    """A collector whose repeated group arrives only when the test says so."""

    def __init__(self) -> None:
        self.reissued, self.rollouts = 0, NoSampling()
        self.asked, self.there = asyncio.Event(), asyncio.Event()

    async def collect(self, group: Group) -> ScoredGroup:
        self.asked.set()
        try:
            await self.there.wait()
        finally:
            await asyncio.sleep(0.05)  # a cancelled call takes a while to let go
        return scored_group("repeated", 1.0)


def client_of(first: TwoRanks, second: TwoRanks, collector: SlowCollector) -> LearnerClient:
    """A client of learner `first`, which a restart replaces by `second`."""
    learner, replacement = cast(Any, first), cast(Any, second)
    return LearnerClient(SETTINGS, learner, lambda: replacement, cast(Any, collector), IterationTimer(2), print)


async def lose_a_rank() -> tuple[TwoRanks, TwoRanks, set[asyncio.Task[Any]]]:
    """Rank 1 dies while rank 0 waits for a repeated group. Returns both learners and the tasks that still run."""
    learners, groups = [TwoRanks(), TwoRanks()], SlowCollector()
    client = client_of(learners[0], learners[1], groups)

    async def group(name: str) -> ScoredGroup:
        return scored_group(name, 1.0)

    before = asyncio.all_tasks()
    update = [asyncio.ensure_future(group(name)) for name in ("first", "second", "third", "fourth")]
    learned = asyncio.ensure_future(client.accumulate(update, 7))
    await asyncio.wait_for(groups.asked.wait(), 10)
    learners[0].dies.set()
    with pytest.raises(LearnerLostError) as lost:
        await asyncio.wait_for(learned, 10)
    running = asyncio.all_tasks() - before
    client.restart(lost.value)
    groups.there.set()  # the nodes are back: whoever still waits goes on now
    for _ in range(20):
        await asyncio.sleep(0)
    return learners[0], learners[1], running


def test_nothing_of_a_lost_iteration_reaches_the_next_learner() -> None:
    lost, following, running = asyncio.run(lose_a_rank())
    assert lost.stopped and lost.given == []
    assert following.given == []
    assert running == set(), "a task that nobody waits for"


def test_groups_are_given_to_their_rank_in_order_with_their_version() -> None:
    async def learn() -> TwoRanks:
        ranks, groups = TwoRanks(), SlowCollector()
        ranks.stopped = True  # no rank dies
        groups.there.set()
        client = client_of(ranks, ranks, groups)

        async def group(name: str) -> ScoredGroup:
            return scored_group(name, 1.0)

        update = [asyncio.ensure_future(group(name)) for name in ("first", "second", "third", "fourth")]
        await asyncio.wait_for(client.accumulate(update, 7), 10)
        return ranks

    given = asyncio.run(learn()).given
    names = {rank: [str(cast(Any, row[2])[0]) for row in given if row[0] == rank] for rank in (0, 1)}
    assert names == {0: ["repeated: best", "third: best"], 1: ["second: best", "fourth: best"]}
    assert {version for _, version, _ in given} == {7}


class Versioned:
    """A GrpoLearner at policy version 3 that counts groups."""

    version, groups = 3, 0

    def accumulate(self, *group: object) -> None:
        self.groups += 1


def test_a_rank_refuses_groups_of_another_version() -> None:
    rank = LearnerRank(
        LearnerJob("", FluxSettings(), replace(SETTINGS, learner=replace(SETTINGS.learner, threads=1))), 0
    )
    learner = Versioned()
    rank.learner = cast(Any, learner)
    group = (scored_group("any", 1.0).advantages, cast(Conditioning, UNUSED))
    rank.accumulate(3, WHOLE, *group)
    for version in (2, 4):
        with pytest.raises(ValueError, match=f"policy version {version} reached a learner at version 3"):
            rank.accumulate(version, WHOLE, *group)
    assert learner.groups == 1


class StepRecorder:
    """Learner ranks that record the divisor of the optimizer step."""

    async def optimizer_step(self, grad_divisor: float) -> OptimizerStepMetrics:
        self.grad_divisor = grad_divisor
        values = {field.name: 0 for field in fields(OptimizerStepMetrics)}
        return OptimizerStepMetrics(**cast(Any, values | {"applied": True}))


@pytest.mark.parametrize(("std_over", "divisor"), [("group", 1.0), ("batch", 50.5**0.5 + 1e-4)])
def test_the_gradient_is_divided_by_the_std_of_the_batch(std_over: Any, divisor: float) -> None:
    """Two groups with scores of -1, 1 and -10, 10: the std of all four scores is sqrt(50.5)."""
    settings = replace(SETTINGS, algorithm=replace(SETTINGS.algorithm, advantage_std_over=std_over))
    ranks = StepRecorder()
    client = LearnerClient(settings, cast(Any, ranks), UNUSED, UNUSED, IterationTimer(2), print)
    asyncio.run(client.optimizer_step([scored_group("narrow", 1.0), scored_group("wide", 10.0)]))
    assert ranks.grad_divisor == pytest.approx(divisor)


class PublishingRanks:
    """Ranks that count what they put into the object store."""

    ranks, published = ("rank 0", "rank 1"), 0

    async def end_iteration(self) -> int:
        return 8

    async def publish(self, averaged: bool) -> WeightsHandle:
        self.published += 1
        return WeightsHandle(8, averaged, UNUSED)


@pytest.mark.parametrize(("placement", "actors", "published"), [("separate", 1, 1), ("colocated", 1, 1),
                                                                 ("colocated", 0, 0)])  # fmt: skip
def test_a_step_waits_for_colocated_samples_and_weights_go_to_rollout_actors_only(
    placement: Any, actors: int, published: int
) -> None:
    async def run() -> None:
        rollout = replace(SETTINGS.rollout, max_actors=actors, min_actors=actors)
        settings, ranks = replace(SETTINGS, placement=placement, rollout=rollout), PublishingRanks()
        client = LearnerClient(settings, cast(Any, ranks), UNUSED, cast(Any, SlowCollector()), IterationTimer(2), print)
        group: asyncio.Future[ScoredGroup] = asyncio.get_running_loop().create_future()
        waiting = asyncio.create_task(client.wait_for_samples([group]))
        await asyncio.sleep(0.01)
        assert waiting.done() is (placement == "separate")
        group.set_result(scored_group("last", 1.0))
        await waiting
        assert (await client.publish()).version == 8 and ranks.published == published

    asyncio.run(run())


class LoadingRanks:
    """Learner ranks that Ray places at once or late, and that load for a while."""

    def __init__(self, placed_at_once: bool) -> None:
        self._placed_at_once, self.loading = placed_at_once, False

    async def placed(self) -> None:
        await asyncio.sleep(0 if self._placed_at_once else 0.5)

    async def start(self) -> None:
        self.loading = True
        await asyncio.sleep(0.5)


class RolloutCalls:
    """Records the calls of a rollout pool that is ready when the learner loads."""

    def __init__(self, ranks: LoadingRanks) -> None:
        self._ranks = ranks
        self.calls: list[str] = []

    def scale_down(self) -> None:
        self.calls.append("scale_down")

    def scale_up(self) -> None:
        self.calls.append("scale_up")

    async def ready(self) -> None:
        assert self._ranks.loading, "learner and rollout actors must load at the same time"


@pytest.mark.ray
@pytest.mark.parametrize("placed_at_once", [True, False])
def test_rollout_actors_are_given_up_while_the_learner_is_not_placed(
    ray_cluster: None, placed_at_once: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learner that is placed and loads takes no resources from them."""
    monkeypatch.setattr(resource_wait, "STATUS_PERIOD_S", 0.05)
    ranks = LoadingRanks(placed_at_once)
    rollouts = RolloutCalls(ranks)
    collector = cast(Any, SimpleNamespace(rollouts=rollouts))
    client = LearnerClient(SETTINGS, cast(Any, ranks), UNUSED, collector, IterationTimer(2), lambda line: None)
    assert asyncio.run(client.restore(Checkpoints(str(tmp_path), keep=1))) is None
    assert rollouts.calls[-1] == "scale_up"
    assert ("scale_down" in rollouts.calls) is not placed_at_once

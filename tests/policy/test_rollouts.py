"""The elastic pool of rollout actors, with actors that only count to show who did what."""

from __future__ import annotations

import asyncio
import time

import pytest
import ray

from actors.flux.plan import SamplingPlan
from actors.rollout import SampleReport, WeightsHandle
from pipelines.policy.rollouts import RolloutPool

pytestmark = pytest.mark.ray


class Sleeper:
    """Answers as Rollout does, without a model."""

    def ready(self) -> bool:
        return True

    def draw_images(
        self, texts: list[str], seeds: list[int], weights: WeightsHandle, plan: SamplingPlan
    ) -> tuple[SampleReport, list[int]]:
        time.sleep(0.2)
        return SampleReport(0, len(seeds), 0.2), seeds


async def draw(pool: RolloutPool, count: int) -> list[list[int]]:
    weights = WeightsHandle(0, False, ray.put(None))
    calls = (pool.draw_images(["a"], [seed], weights, SamplingPlan(1)) for seed in range(count))
    return [await reference for reference in await asyncio.gather(*calls)]


def test_actors_without_room_join_later_and_leave_without_losing_work(ray_cluster: None) -> None:
    """Two of three find room on the four CPUs. One leaves with calls in its hands: all are answered."""

    async def run() -> None:
        pool = RolloutPool(ray.remote(Sleeper).options(num_cpus=1.5).remote, most=3, least=1)
        await pool.ready()
        assert len(pool.actors) == 3
        work = asyncio.create_task(draw(pool, 12))
        await asyncio.sleep(1.0)
        pool.give_way()  # the pending one
        pool.give_way()  # one at work
        pool.give_way()  # refused: the last one
        assert len(pool.actors) == 1
        assert sorted(await work) == [[seed] for seed in range(12)]
        assert pool.reissued == 0 and pool.replaced == 0
        pool.grow()
        while pool.ready_actors.value < 2:
            await asyncio.sleep(0.05)
        assert len(pool.actors) == 3
        pool.stop()

    asyncio.run(run())


def test_a_killed_actor_is_replaced_and_its_calls_are_made_again(ray_cluster: None) -> None:
    async def run() -> None:
        pool = RolloutPool(ray.remote(Sleeper).options(num_cpus=0.1).remote, most=2, least=2)
        await pool.ready()
        work = asyncio.create_task(draw(pool, 12))
        await asyncio.sleep(0.3)
        ray.kill(pool.actors[0])
        assert sorted(await work) == [[seed] for seed in range(12)]
        assert pool.replaced == 1 and pool.reissued >= 1
        assert pool.ready_actors.read().seconds > 0 and pool.busy_actors.read().area > 0
        pool.stop()

    asyncio.run(run())

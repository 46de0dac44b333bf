"""The elastic pool of rollout actors, with actors that only count; and two calls at once in a real one."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from actors.policy.base import ConditioningBatch
from actors.policy.flux import FluxPolicy
from actors.policy.plan import SamplingPlan
from actors.types import PolicyWeights, Trajectory
from actors.workers.rollout import Rollout
from actors.workers.sampling_calls import WeightsHandle
from conf.flux import FluxSettings
from conf.policy import AlgorithmSettings, PolicySettings
from pipelines.policy.rollout_pool import EVALUATION_PRIORITY, RolloutPool
from pipelines.policy.slot_queue import Priority, SlotQueue
from tests.support.light_actors import Moody, Sleeper

pytestmark = pytest.mark.ray


async def draw(pool: RolloutPool, count: int) -> list[list[int]]:
    weights = WeightsHandle(0, False, ray.put(None))
    calls = (pool.generate_images(["a"], [seed], weights, SamplingPlan(1)) for seed in range(count))
    return [await reference for reference in await asyncio.gather(*calls)]


def test_actors_without_room_join_later_and_leave_without_losing_work(ray_cluster: None) -> None:
    """Two of three find room on the four CPUs. One leaves with calls in its hands: all are answered."""

    async def run() -> None:
        pool = RolloutPool(ray.remote(Sleeper).options(num_cpus=1.5).remote, max_actors=3, min_actors=1)
        await pool.ready()
        assert len(pool.actors) == 3
        work = asyncio.create_task(draw(pool, 12))
        await asyncio.sleep(1.0)
        pool.scale_down()  # the pending one
        pool.scale_down()  # one at work
        pool.scale_down()  # refused: the last one
        assert len(pool.actors) == 1
        assert sorted(await work) == [[seed] for seed in range(12)]
        assert pool.reissued == 0 and pool.replaced == 0
        pool.scale_up()
        while pool.ready_actors.value < 2:
            await asyncio.sleep(0.05)
        assert len(pool.actors) == 3
        pool.stop()

    asyncio.run(run())


def test_a_killed_actor_is_replaced_and_its_calls_are_made_again(ray_cluster: None) -> None:
    async def run() -> None:
        pool = RolloutPool(ray.remote(Sleeper).options(num_cpus=0.1).remote, max_actors=2, min_actors=2)
        await pool.ready()
        work = asyncio.create_task(draw(pool, 12))
        await asyncio.sleep(0.3)
        ray.kill(pool.actors[0])
        assert sorted(await work) == [[seed] for seed in range(12)]
        assert pool.replaced == 1 and pool.reissued >= 1
        assert pool.ready_actors.read().seconds > 0 and pool.busy_actors.read().integral > 0
        pool.stop()

    asyncio.run(run())


def test_an_actor_that_cannot_start_is_the_run_s_end_only_at_its_beginning(ray_cluster: None, tmp_path: Path) -> None:
    """Later it is tried again, and what it held is done by its successor."""
    trouble = tmp_path / "trouble"

    async def begin() -> None:
        pool = RolloutPool(lambda: ray.remote(Moody).options(num_cpus=0.1).remote(trouble), max_actors=1)
        with pytest.raises(ray.exceptions.RayActorError, match="the model hub is away"):
            await pool.ready()
        with pytest.raises(ray.exceptions.RayActorError, match="the model hub is away"):
            await draw(pool, 1)
        pool.stop()

    async def go_on() -> None:
        pool = RolloutPool(lambda: ray.remote(Moody).options(num_cpus=0.1).remote(trouble), max_actors=1)
        await pool.ready()
        trouble.touch()
        work = asyncio.create_task(draw(pool, 4))
        await asyncio.sleep(0.3)
        ray.kill(pool.actors[0])
        while pool.replaced < 2:  # the dead one's successor could not start
            await asyncio.sleep(0.05)
        trouble.unlink()
        assert sorted(await asyncio.wait_for(work, 60)) == [[seed] for seed in range(4)]
        pool.stop()

    trouble.touch()
    asyncio.run(begin())
    trouble.unlink()
    asyncio.run(go_on())


def test_the_most_urgent_is_next_and_no_place_is_lost() -> None:
    """A group made again is of an earlier iteration than those that wait. One is cancelled as its place comes."""

    async def run() -> list[str]:
        places, order = SlotQueue(), []

        async def wait(name: str, urgency: Priority) -> None:
            await places.acquire(urgency)
            order.append(name)

        late = [asyncio.create_task(wait(f"later {index}", (8, index))) for index in (1, 0)]
        again = asyncio.create_task(wait("again", (7, 3)))
        evaluation = asyncio.create_task(wait("evaluation", EVALUATION_PRIORITY))
        await asyncio.sleep(0)
        places.add("actor", 1)
        evaluation.cancel()
        await asyncio.sleep(0.01)
        for _ in range(2):
            places.release("actor")
            await asyncio.sleep(0.01)
        await asyncio.gather(again, *late)
        return order

    assert asyncio.run(asyncio.wait_for(run(), 10)) == ["again", "later 0", "later 1"]


def test_a_worker_samples_before_it_is_claimed_and_the_least_busy_one_is_next() -> None:
    async def run() -> None:
        places = SlotQueue()
        for worker in ("a", "b"):
            places.add(worker, 2)
        taken = [await places.acquire((0, index)) for index in range(3)]
        assert taken == ["a", "b", "a"], "the worker with the most free slots"
        claims = [asyncio.create_task(places.claim(worker)) for worker in ("a", "b")]
        calls = [asyncio.create_task(places.acquire((0, index))) for index in (3, 4)]
        await asyncio.sleep(0)
        assert calls[0].result() == "b" and not calls[1].done()
        places.release("a")
        await asyncio.sleep(0)
        assert calls[1].result() == "a", "a call goes before the claim"
        for _ in range(2):
            assert not claims[0].done()
            places.release("a")
            await asyncio.sleep(0)
        assert claims[0].done()
        places.release("b")
        late = asyncio.create_task(places.acquire((0, 5)))
        await asyncio.sleep(0)
        assert late.result() == "b" and not claims[1].done(), "nor is a slot kept for a claim"
        claims[1].cancel()
        places.release_all("a")
        assert await places.acquire((0, 6)) == "a"
        places.remove("a")
        for worker in ("a", "b"):
            places.release(worker)
        assert await places.acquire((0, 7)) == "b", "a worker that was removed has no slots"
        assert (await asyncio.gather(*claims, return_exceptions=True))[0] is None

    asyncio.run(asyncio.wait_for(run(), 10))


class Watched(Rollout):
    """A Rollout that decodes only once two calls have denoised, and is slow enough at that for a race to show."""

    def __init__(self, model: str, flux: FluxSettings, threads: int, calls: int) -> None:
        super().__init__(model, flux, threads, gpus=0, number=0)
        self.meeting = threading.Barrier(calls)
        self.threads: list[int] = []
        velocity = self.policy.velocity

        def slowly(latents: torch.Tensor, s: torch.Tensor, rows: ConditioningBatch) -> torch.Tensor:
            time.sleep(0.05)
            return velocity(latents, s, rows)

        self.policy.velocity = slowly
        decode = self.sampler.decode

        def together(latents: torch.Tensor) -> tuple[np.ndarray, float]:
            self.threads.append(torch.get_num_threads())
            self.meeting.wait(timeout=60)
            return decode(latents)

        self.sampler.decode = together

    def threads_seen(self) -> list[int]:
        """Torch's threads in every call so far."""
        return self.threads


def test_two_calls_at_once_in_an_actor_draw_what_one_after_the_other_draws(
    ray_cluster: None, flux_directory: Path, policy: FluxPolicy
) -> None:
    """Each call under its own weights: neither may see the other's LoRA. Serial calls would break the barrier."""
    flux = FluxSettings(model=str(flux_directory))
    plan = SamplingPlan.for_training(PolicySettings(group_size=2, algorithm=AlgorithmSettings(top_k=1)))
    generator = np.random.default_rng(0)
    lora = {key: np.asarray(value) for key, value in policy.lora_state().items()}
    handles = [
        WeightsHandle(version, False, ray.put(PolicyWeights(version, {
            key: value + 0.1 * generator.standard_normal(value.shape, np.float32) for key, value in lora.items()
        })))
        for version in (1, 2)
    ]  # fmt: skip
    start: Any = ray.remote(Watched)
    drawn: list[list[Any]] = []
    for calls in (2, 1):
        actor = start.options(num_cpus=0.1, max_concurrency=calls).remote(str(flux_directory), flux, 2, calls)
        answers = [
            actor.sample_group.options(num_returns=5).remote("a red circle", (seed, seed + 1), handle, plan)
            for seed, handle in zip((10, 20), handles, strict=True)
        ]
        drawn.append(ray.get([reference for answer in answers for reference in answer[1:]], timeout=120))
        assert ray.get(actor.threads_seen.remote()) == [2, 2]
        ray.kill(actor)
    for one, other in zip(*drawn, strict=True):
        if isinstance(one, Trajectory):
            assert torch.equal(one.latents, other.latents) and torch.equal(one.log_probs, other.log_probs)
        elif isinstance(one, np.ndarray):
            assert np.array_equal(one, other)
    assert not np.array_equal(drawn[0][0], drawn[0][4])

"""The Ray Serve replica that samples for a person: prompt and seed in, progress and two images out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, cast

from ray import serve

from actors.policy.comparison import Comparison, ComparisonSampler
from actors.policy.lora import read_lora
from actors.policy.plan import SamplingPlan
from actors.policy.registry import load_policy
from actors.worker_setup import actor_options, init_worker
from actors.workers.faults import ends_on_device_fault
from conf.errors import UserError
from conf.flux import FluxSettings
from conf.policy import LearnerSettings, RolloutSettings


class ClientLeftError(Exception):
    """Nobody waits for these images any more."""


@ends_on_device_fault("play", survives=("out_of_memory",))
class _GuardedSampler(ComparisonSampler):
    """Its device faults end the process. The method of the replica itself is a generator, which cannot be guarded."""

    def sample(self, text: str, seed: int, after_step: Callable[[], None]) -> Comparison:
        """See ComparisonSampler.sample."""
        return super().sample(text, seed, after_step)


class ComparisonReplica:
    """A thin class around a ComparisonSampler. It holds no state that a new replica would lack."""

    def __init__(
        self, model: str, lora: str, flux: FluxSettings, plan: SamplingPlan, threads: int, gpus: float
    ) -> None:
        policy = load_policy(model, flux, init_worker(threads, gpus))
        try:
            policy.load_lora(read_lora(Path(lora), flux))
        except ValueError as error:
            raise UserError(f"the LoRA at {lora} is not of flux.model={model}: {error}") from error
        self._sampler = _GuardedSampler(policy, plan)

    async def sample(self, text: str, seed: int) -> AsyncGenerator[float | Comparison]:
        """Yields the fraction of the denoise steps that is done, as it grows, and then both images.

        If the caller stops to listen, sampling ends after the denoise step that it is at. Raises InputError for a text
        that is too long.
        """
        loop, left = asyncio.get_running_loop(), threading.Event()
        done: asyncio.Queue[bool] = asyncio.Queue()

        def after_step() -> None:
            if left.is_set():
                raise ClientLeftError
            loop.call_soon_threadsafe(done.put_nowait, True)

        sampling = asyncio.create_task(asyncio.to_thread(self._sampler.sample, text, seed, after_step))

        def end(task: asyncio.Task[Comparison]) -> None:
            if not task.cancelled():
                task.exception()  # seen, also if nobody awaits it any more
            done.put_nowait(False)

        sampling.add_done_callback(end)
        try:
            steps = 0
            while await done.get():
                steps += 1
                yield steps / self._sampler.steps
            yield await sampling
        finally:
            left.set()


def comparison_deployment(
    model: str,
    lora: str,
    flux: FluxSettings,
    plan: SamplingPlan,
    place: RolloutSettings | LearnerSettings,
    replicas: int,
) -> serve.Application:
    """The replicas as a Serve application, not yet started. `place`: the threads, CPUs and GPUs of each."""
    deployed = serve.deployment(
        ComparisonReplica,
        name=ComparisonReplica.__name__,
        num_replicas=replicas,
        max_ongoing_requests=1,
        ray_actor_options=actor_options(place.threads, place.cpus, place.gpus, place.node_group),
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=5,
    )
    return cast(Any, deployed).bind(model, lora, flux, plan, place.threads, place.gpus)

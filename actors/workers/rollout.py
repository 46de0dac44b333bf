"""The rollout actor: prompt and seeds in, images and trajectories out, with the policy version that it is given."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import ray

from actors.policy.image_sampler import ImageSampler
from actors.policy.plan import SamplingPlan
from actors.policy.registry import load_policy
from actors.types import Conditioning, SampleReport, Trajectory
from actors.worker_setup import actor_options, init_worker
from actors.workers.faults import ends_on_device_fault
from actors.workers.profiles import NO_PROFILE, CallProfiler, ProfilePlan
from actors.workers.sampling_calls import CALLS_PER_ACTOR, WeightsHandle
from conf.flux import FluxSettings
from conf.policy import RolloutSettings


@ends_on_device_fault("rollout")
class Rollout:
    """A thin actor class around an ImageSampler. It holds no state that a new actor would lack."""

    def __init__(
        self,
        model: str,
        flux: FluxSettings,
        threads: int,
        gpus: float,
        number: int,
        profile: ProfilePlan = NO_PROFILE,
    ) -> None:
        self.number, self.profiler = number, CallProfiler(profile, f"rollout-{number}")
        self.policy = load_policy(model, flux, init_worker(threads, gpus))
        self.sampler = ImageSampler(self.policy)
        self._loaded: tuple[int, bool] | None = None

    def __repr__(self) -> str:
        """The name in Ray's dashboard and logs."""
        return f"rollout {self.number}"

    def ready(self) -> bool:
        """Returns once the model is loaded."""
        return True

    def sample_group(
        self,
        text: str,
        seeds: Sequence[int],
        weights: WeightsHandle,
        plan: SamplingPlan,
        noise_seed: int | None = None,
    ) -> tuple[SampleReport | np.ndarray | Conditioning | Trajectory, ...]:
        """Samples some or all images of a group; see ImageSampler.sample.

        Call it with num_returns = `sampling_returns(images)`. Each return is an object of its own in Ray's object
        store, so that only the trajectories that are trained on travel to the learner.
        """
        with self.profiler.call("sample_group", weights.version + 1):
            return self.sampler.sample(text, seeds, plan, weights.version, partial(self._weights, weights), noise_seed)

    def generate_images(
        self, texts: Sequence[str], seeds: Sequence[int], weights: WeightsHandle, plan: SamplingPlan
    ) -> tuple[SampleReport, np.ndarray]:
        """Generates one image for each (text, seed); see ImageSampler.generate. Call it with num_returns = 2."""
        return self.sampler.generate(texts, seeds, plan, weights.version, partial(self._weights, weights))

    @contextmanager
    def _weights(self, weights: WeightsHandle) -> Generator[None]:
        """Loads the weights if the policy does not have them."""
        name = (weights.version, weights.averaged)
        if self._loaded != name:
            assert weights.reference, "weights for rollout actors are published"
            self._loaded = None  # a load that fails half-way leaves neither version
            self.policy.load_lora(ray.get(weights.reference).lora)
            self._loaded = name
        yield


RolloutActor = ray.remote(Rollout)


def start_rollout(
    model: str,
    flux: FluxSettings,
    settings: RolloutSettings,
    number: int,
    avoided: frozenset[str] = frozenset(),
    profile: ProfilePlan = NO_PROFILE,
) -> Any:
    """Starts rollout actor `number` and returns its handle at once. Await its `ready` to know that it runs.

    `avoided`: ids of nodes on which it must not run.
    """
    options = actor_options(settings.threads, settings.cpus, settings.gpus, settings.node_group, avoided=avoided)
    # On CPUs a second call would use more cores than policy.rollout.threads.
    concurrency = CALLS_PER_ACTOR if settings.gpus else 1
    return RolloutActor.options(**options, max_concurrency=concurrency).remote(
        model, flux, settings.threads, settings.gpus, number, profile
    )

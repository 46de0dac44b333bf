"""The sampling actor: prompt and seeds in, images and trajectories out, under whichever policy version it is given."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from actors.families import load_policy
from actors.flux.plan import SamplingPlan
from actors.flux.sampler import sample
from actors.process import actor_options, set_up_process
from actors.records import Conditioning, Trajectory
from conf.flux import FluxSettings
from conf.policy import PolicySettings

ENCODED_PROMPTS = 1024
"""Prompts whose conditioning an actor keeps in host memory: 4 MB each with T5 at 512 tokens in bfloat16."""


@dataclass(frozen=True)
class WeightsHandle:
    """Names a LoRA and says where it is. The reference is wrapped, so an actor fetches it only when it needs it."""

    version: int
    averaged: bool  # the moving average, as evaluated, instead of the policy itself
    reference: ray.ObjectRef  # of PolicyWeights


@dataclass(frozen=True)
class SampleReport:
    """The small first return of a sampling call: it tells the driver that the rest exists."""

    policy_version: int
    images: int
    seconds: float  # of the actor's time, for all of the call


class Rollout:
    """A plain class around one policy. It keeps nothing that a fresh actor would miss."""

    def __init__(self, model: str, flux: FluxSettings, threads: int, gpus: float, number: int) -> None:
        self.number = number
        device = set_up_process(threads, gpus)
        self.policy = load_policy(model, flux, device)
        self._loaded: tuple[int, bool] | None = None
        self._encoded: dict[str, Conditioning] = {}

    def __repr__(self) -> str:
        """How Ray's dashboard and logs name it."""
        return f"rollout {self.number}"

    def ready(self) -> bool:
        """Returns once the model is loaded."""
        return True

    def sample_group(
        self, text: str, seeds: Sequence[int], weights: WeightsHandle, plan: SamplingPlan
    ) -> tuple[SampleReport | np.ndarray | Conditioning | Trajectory, ...]:
        """One prompt's group under one iteration's training plan.

        Call it with num_returns = G + 3: a SampleReport, the images uint8 [G, H, W, 3], the group's Conditioning, and
        one Trajectory a seed, each its own object, so that only kept trajectories travel.
        """
        started = time.perf_counter()
        self._load(weights)
        conditioning = self._encode(text)
        samples = sample(self.policy, [conditioning] * len(seeds), seeds, plan, weights.version)
        images = self.policy.decode(samples.latents)
        report = SampleReport(weights.version, len(seeds), time.perf_counter() - started)
        return report, images, conditioning, *samples.trajectories

    def draw_images(
        self, texts: Sequence[str], seeds: Sequence[int], weights: WeightsHandle, plan: SamplingPlan
    ) -> tuple[SampleReport, np.ndarray]:
        """One image a (text, seed) under `plan`, uint8 [B, H, W, 3]. Call it with num_returns = 2."""
        started = time.perf_counter()
        self._load(weights)
        samples = sample(self.policy, [self._encode(text) for text in texts], seeds, plan, weights.version)
        images = self.policy.decode(samples.latents)
        return SampleReport(weights.version, len(seeds), time.perf_counter() - started), images

    def _load(self, weights: WeightsHandle) -> None:
        name = (weights.version, weights.averaged)
        if self._loaded != name:
            self._loaded = None  # a load that fails half way must not pass for either
            self.policy.load_lora(ray.get(weights.reference).lora)
            self._loaded = name

    def _encode(self, text: str) -> Conditioning:
        if text not in self._encoded:
            if len(self._encoded) >= ENCODED_PROMPTS:
                del self._encoded[next(iter(self._encoded))]  # the one encoded first
            self._encoded[text] = self.policy.encode([text])[0]
        return self._encoded[text]


RolloutActor = ray.remote(Rollout)


def start_rollout(model: str, flux: FluxSettings, settings: PolicySettings, number: int) -> Any:
    """Starts RolloutActor `number` and returns its handle at once; await its `ready` to know that it runs."""
    options = actor_options(
        settings.rollout_threads, settings.rollout_cpus, settings.rollout_gpus, settings.rollout_nodes
    )
    return RolloutActor.options(**options).remote(model, flux, settings.rollout_threads, settings.rollout_gpus, number)

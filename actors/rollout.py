"""The sampling actor: prompt and seeds in, images and trajectories out, under whichever policy version it is given."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch

from actors.families import load_policy
from actors.flux.plan import SamplingPlan
from actors.flux.sampler import Samples, sample
from actors.process import actor_options, set_up_process
from actors.records import Conditioning, Trajectory
from conf.flux import FluxSettings
from conf.policy import PolicySettings

CALLS_PER_ACTOR = 2
"""Calls in an actor's hands, so that it never waits for the driver. On a GPU both run at once: see Rollout."""

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
    seconds: float  # of the call's own work, denoising and decoding; not of waiting for the actor's other call


class Rollout:
    """A plain class around one policy. It keeps nothing that a fresh actor would miss.

    Two threads may call it at once: one decodes while the other denoises. A call's bits do not depend on the other.
    """

    def __init__(self, model: str, flux: FluxSettings, threads: int, gpus: float, number: int) -> None:
        self.number = number
        device = set_up_process(threads, gpus)
        self.policy = load_policy(model, flux, device)
        self._denoising = threading.Lock()  # guards transformer, LoRA, text encoders and the two fields below
        self._decoding = threading.Lock()  # guards the VAE: Qwen-Image's keeps state in a forward
        self._stream = torch.cuda.Stream() if device.type == "cuda" else None
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
        samples, conditioning, denoised = self._denoise([text] * len(seeds), seeds, weights, plan)
        images, decoded = self._decode(samples.latents)
        report = SampleReport(weights.version, len(seeds), denoised + decoded)
        return report, images, conditioning[0], *samples.trajectories

    def draw_images(
        self, texts: Sequence[str], seeds: Sequence[int], weights: WeightsHandle, plan: SamplingPlan
    ) -> tuple[SampleReport, np.ndarray]:
        """One image a (text, seed) under `plan`, uint8 [B, H, W, 3]. Call it with num_returns = 2."""
        samples, _, denoised = self._denoise(texts, seeds, weights, plan)
        images, decoded = self._decode(samples.latents)
        return SampleReport(weights.version, len(seeds), denoised + decoded), images

    def _denoise(
        self, texts: Sequence[str], seeds: Sequence[int], weights: WeightsHandle, plan: SamplingPlan
    ) -> tuple[Samples, list[Conditioning], float]:
        """Samples on the CPU, each text's conditioning, and the seconds it took."""
        with self._denoising:
            started = time.perf_counter()
            self._load(weights)
            conditioning = [self._encode(text) for text in texts]
            samples = sample(self.policy, conditioning, seeds, plan, weights.version)
            return samples, conditioning, time.perf_counter() - started

    def _decode(self, latents: torch.Tensor) -> tuple[np.ndarray, float]:
        """Images uint8 [B, H, W, 3] of latents that are on the CPU, and the seconds it took.

        On a GPU it has a stream of its own, else its kernels would queue behind the other call's. That stream need
        not wait for the denoising: the latents' copy to the CPU did. Decoding ends with such a copy too.
        """
        with self._decoding, torch.cuda.stream(self._stream):
            started = time.perf_counter()
            return self.policy.decode(latents), time.perf_counter() - started

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
    # on CPUs a second call would take more cores than policy.rollout_threads
    at_once = CALLS_PER_ACTOR if settings.rollout_gpus else 1
    return RolloutActor.options(**options, max_concurrency=at_once).remote(
        model, flux, settings.rollout_threads, settings.rollout_gpus, number
    )

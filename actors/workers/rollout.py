"""The sampling actor: prompt and seeds in, images and trajectories out, under whichever policy version it is given."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
import torch

from actors.policy.plan import SamplingPlan
from actors.policy.registry import load_policy
from actors.policy.sampler import Samples, sample
from actors.types import Conditioning, Trajectory
from actors.worker_setup import actor_options, init_worker
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
    seconds: float  # of the call's own work; not of waiting for the actor's other call

    def of_each(self, groups: int) -> SampleReport:
        """An equal share for each of the call's groups."""
        return replace(self, images=self.images // groups, seconds=self.seconds / groups)


class Rollout:
    """A plain class around one policy. It keeps nothing that a fresh actor would miss.

    Two threads may call it at once: one encodes its prompts or decodes while the other denoises. A call's bits do not
    depend on the other.
    """

    def __init__(self, model: str, flux: FluxSettings, threads: int, gpus: float, number: int) -> None:
        self.number = number
        device = init_worker(threads, gpus)
        self.policy = load_policy(model, flux, device)
        self._encoding = threading.Lock()  # guards the text encoders and what they gave
        self._denoising = threading.Lock()  # guards transformer and LoRA, and what is loaded
        self._decoding = threading.Lock()  # guards the VAE: Qwen-Image's keeps state in a forward
        on_gpu = device.type == "cuda"
        self._encoding_stream = torch.cuda.Stream() if on_gpu else None
        self._decoding_stream = torch.cuda.Stream() if on_gpu else None
        self._loaded: tuple[int, bool] | None = None
        self._encoded: dict[str, Conditioning] = {}

    def __repr__(self) -> str:
        """How Ray's dashboard and logs name it."""
        return f"rollout {self.number}"

    def ready(self) -> bool:
        """Returns once the model is loaded."""
        return True

    def sample_groups(
        self, texts: Sequence[str], seeds: Sequence[Sequence[int]], weights: WeightsHandle, plan: SamplingPlan
    ) -> tuple[SampleReport | np.ndarray | Conditioning | Trajectory, ...]:
        """A group of G images a (text, G seeds), under one iteration's training plan and in common forwards.

        Call it with num_returns = `sampling_returns(groups, G)`: a SampleReport, then for every group its images uint8
        [G, H, W, 3], its Conditioning, and one Trajectory a seed. Each is an object of its own, so that groups go
        their own ways and only kept trajectories travel.
        """
        size = len(seeds[0])
        each = [text for text in texts for _ in range(size)]
        samples, conditioning, seconds = self._denoise(each, [seed for group in seeds for seed in group], weights, plan)
        results = []
        for first in range(0, len(each), size):
            images, decoded = self._decode(samples.latents[first : first + size])
            results += [images, conditioning[first], *samples.trajectories[first : first + size]]
            seconds += decoded
        return SampleReport(weights.version, len(each), seconds), *results

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
        conditioning, encoded = self._encode(texts)
        with self._denoising:
            started = time.perf_counter()
            self._load(weights)
            samples = sample(self.policy, conditioning, seeds, plan, weights.version)
            return samples, conditioning, encoded + time.perf_counter() - started

    def _decode(self, latents: torch.Tensor) -> tuple[np.ndarray, float]:
        """Images uint8 [B, H, W, 3] of latents that are on the CPU, and the seconds it took.

        On a GPU it has a stream of its own, else its kernels would queue behind the other call's. That stream need
        not wait for the denoising: the latents' copy to the CPU did. Encoding and decoding end with such a copy too.
        """
        with self._decoding, torch.cuda.stream(self._decoding_stream):
            started = time.perf_counter()
            return self.policy.decode(latents), time.perf_counter() - started

    def _load(self, weights: WeightsHandle) -> None:
        name = (weights.version, weights.averaged)
        if self._loaded != name:
            self._loaded = None  # a load that fails half way must not pass for either
            self.policy.load_lora(ray.get(weights.reference).lora)
            self._loaded = name

    def _encode(self, texts: Sequence[str]) -> tuple[list[Conditioning], float]:
        """Each text's conditioning, of equal texts the same object, and the seconds it took."""
        with self._encoding, torch.cuda.stream(self._encoding_stream):
            started = time.perf_counter()
            found = {text: self._encoded.get(text) or self.policy.encode([text])[0] for text in dict.fromkeys(texts)}
            self._encoded.update(found)
            while len(self._encoded) > ENCODED_PROMPTS:
                del self._encoded[next(iter(self._encoded))]  # the one encoded first
            return [found[text] for text in texts], time.perf_counter() - started


RolloutActor = ray.remote(Rollout)


def sampling_returns(groups: int, size: int) -> int:
    """What `Rollout.sample_groups` returns for so many groups of `size` images."""
    return 1 + groups * (2 + size)


def start_rollout(model: str, flux: FluxSettings, settings: PolicySettings, number: int) -> Any:
    """Starts RolloutActor `number` and returns its handle at once; await its `ready` to know that it runs."""
    options = actor_options(
        settings.rollout.threads, settings.rollout.cpus, settings.rollout.gpus, settings.rollout.node_group
    )
    # on CPUs a second call would take more cores than policy.rollout.threads
    at_once = CALLS_PER_ACTOR if settings.rollout.gpus else 1
    return RolloutActor.options(**options, max_concurrency=at_once).remote(
        model, flux, settings.rollout.threads, settings.rollout.gpus, number
    )

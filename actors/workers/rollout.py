"""The rollout actor: prompt and seeds in, images and trajectories out, with the policy version that it is given."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch

from actors.policy.plan import SamplingPlan
from actors.policy.registry import load_policy
from actors.policy.sampler import Samples, sample
from actors.types import Conditioning, PolicyWeights, Trajectory
from actors.worker_setup import actor_options, init_worker
from conf.flux import FluxSettings
from conf.policy import RolloutSettings

CALLS_PER_ACTOR = 2
"""Calls that an actor holds, so that it never waits for the driver. On a GPU both run at once; see Rollout."""

ENCODED_PROMPTS = 1024
"""Prompts whose conditioning an actor keeps in host memory: 4 MB each with T5 at 512 tokens in bfloat16."""


@dataclass(frozen=True)
class WeightsHandle:
    """Names a LoRA and holds its reference. The reference is wrapped, so an actor fetches it only if it needs it."""

    version: int
    averaged: bool
    """The moving average of the weights, which is evaluated, instead of the policy itself."""
    reference: ray.ObjectRef[PolicyWeights]


@dataclass(frozen=True)
class SampleReport:
    """The small first return of a sampling call. Once it is there, the other returns exist."""

    policy_version: int
    images: int
    seconds: float
    """Time of the call's own work, without waiting for the other call of the same actor."""


class Rollout:
    """A plain class around one policy. It holds no state that a new actor would lack.

    Two threads may call it at once: one encodes prompts or decodes latents while the other denoises. The calls do not
    change each other's results.
    """

    def __init__(self, model: str, flux: FluxSettings, threads: int, gpus: float, number: int) -> None:
        self.number = number
        device = init_worker(threads, gpus)
        self.policy = load_policy(model, flux, device)
        self._encoding = threading.Lock()  # guards the text encoders and the cache of their outputs
        self._denoising = threading.Lock()  # guards transformer and LoRA, and the name of the loaded weights
        self._decoding = threading.Lock()  # guards the VAE: Qwen-Image's keeps state during a forward
        on_gpu = device.type == "cuda"
        self._encoding_stream = torch.cuda.Stream() if on_gpu else None
        self._decoding_stream = torch.cuda.Stream() if on_gpu else None
        self._loaded: tuple[int, bool] | None = None
        self._encoded: dict[str, Conditioning] = {}

    def __repr__(self) -> str:
        """The name in Ray's dashboard and logs."""
        return f"rollout {self.number}"

    def ready(self) -> bool:
        """Returns once the model is loaded."""
        return True

    def sample_group(
        self, text: str, seeds: Sequence[int], weights: WeightsHandle, plan: SamplingPlan
    ) -> tuple[SampleReport | np.ndarray | Conditioning | Trajectory, ...]:
        """Samples a group of G images of one text with the training plan of one iteration.

        Call it with num_returns = `sampling_returns(G)`. Returns a SampleReport, the images uint8 [G, H, W, 3], their
        Conditioning, and one Trajectory for each seed. Each is an object of its own in Ray's object store, so that
        only the trajectories that are trained on travel to the learner.
        """
        samples, conditioning, seconds = self._denoise([text] * len(seeds), seeds, weights, plan)
        images, decoding = self._decode(samples.latents)
        report = SampleReport(weights.version, len(seeds), seconds + decoding)
        return report, images, conditioning[0], *samples.trajectories

    def generate_images(
        self, texts: Sequence[str], seeds: Sequence[int], weights: WeightsHandle, plan: SamplingPlan
    ) -> tuple[SampleReport, np.ndarray]:
        """Generates one image for each (text, seed) with `plan`: uint8 [B, H, W, 3]. Call it with num_returns = 2."""
        samples, _, denoising = self._denoise(texts, seeds, weights, plan)
        images, decoding = self._decode(samples.latents)
        return SampleReport(weights.version, len(seeds), denoising + decoding), images

    def _denoise(
        self, texts: Sequence[str], seeds: Sequence[int], weights: WeightsHandle, plan: SamplingPlan
    ) -> tuple[Samples, list[Conditioning], float]:
        """Returns samples on the CPU, the conditioning of each text, and the seconds that both took."""
        conditioning, encoding = self._encode(texts)
        with self._denoising:
            started = time.perf_counter()
            self._load(weights)
            samples = sample(self.policy, conditioning, seeds, plan, weights.version)
            return samples, conditioning, encoding + time.perf_counter() - started

    def _decode(self, latents: torch.Tensor) -> tuple[np.ndarray, float]:
        """Decodes latents that are on the CPU to images uint8 [B, H, W, 3]. Returns them and the seconds it took.

        On a GPU it uses its own stream, because otherwise its kernels would queue behind the other call's. The stream
        need not wait for the denoising, since the latents were copied to the CPU. Encoding ends with a copy too.
        """
        with self._decoding, torch.cuda.stream(self._decoding_stream):
            started = time.perf_counter()
            return self.policy.decode(latents), time.perf_counter() - started

    def _load(self, weights: WeightsHandle) -> None:
        name = (weights.version, weights.averaged)
        if self._loaded != name:
            self._loaded = None  # a load that fails half-way leaves neither version
            self.policy.load_lora(ray.get(weights.reference).lora)
            self._loaded = name

    def _encode(self, texts: Sequence[str]) -> tuple[list[Conditioning], float]:
        """Returns the conditioning of each text, the same object for equal texts, and the seconds it took."""
        with self._encoding, torch.cuda.stream(self._encoding_stream):
            started = time.perf_counter()
            found = {text: self._encoded.get(text) or self.policy.encode([text])[0] for text in dict.fromkeys(texts)}
            self._encoded.update(found)
            while len(self._encoded) > ENCODED_PROMPTS:
                del self._encoded[next(iter(self._encoded))]  # the oldest entry
            return [found[text] for text in texts], time.perf_counter() - started


RolloutActor = ray.remote(Rollout)


def sampling_returns(group_size: int) -> int:
    """Number of objects that `Rollout.sample_group` returns for a group of `group_size` images."""
    return 3 + group_size


def start_rollout(model: str, flux: FluxSettings, settings: RolloutSettings, number: int) -> Any:
    """Starts rollout actor `number` and returns its handle at once. Await its `ready` to know that it runs."""
    options = actor_options(settings.threads, settings.cpus, settings.gpus, settings.node_group)
    # On CPUs a second call would use more cores than policy.rollout.threads.
    concurrency = CALLS_PER_ACTOR if settings.gpus else 1
    return RolloutActor.options(**options, max_concurrency=concurrency).remote(
        model, flux, settings.threads, settings.gpus, number
    )

"""Prompts and seeds in, images and trajectories out: encodes, denoises and decodes with one policy.

Rollout actors and policy workers (actors/workers) are built around it. It does not know where weights come from.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch

from actors.policy.base import Policy
from actors.policy.conditioning_cache import ConditioningCache
from actors.policy.plan import SamplingPlan
from actors.policy.sampler import Samples, sample
from actors.types import Conditioning, SampleReport, Trajectory

Weights = Callable[[], AbstractContextManager[object]]
"""Makes the context in which the policy has the weights that a call wants."""


class ImageSampler:
    """A plain class around one policy. It holds no state that a new process would lack.

    Two threads may call it at once: one encodes prompts or decodes latents while the other denoises. The calls do not
    change each other's results.
    """

    def __init__(self, policy: Policy, transformer: threading.Lock | None = None) -> None:
        """`transformer` guards the policy's transformer and LoRA, if others use them too."""
        self.policy = policy
        self._transformer = transformer or threading.Lock()
        self._encoding = threading.Lock()  # guards the text encoders and the cache of their outputs
        self._decoding = threading.Lock()  # guards the VAE: Qwen-Image's keeps state during a forward
        on_gpu = policy.device.type == "cuda"
        self._encoding_stream = torch.cuda.Stream() if on_gpu else None
        self._decoding_stream = torch.cuda.Stream() if on_gpu else None
        self._encoded = ConditioningCache(lambda text: policy.encode([text])[0])

    def sample(
        self,
        text: str,
        seeds: Sequence[int],
        plan: SamplingPlan,
        version: int,
        weights: Weights,
        noise_seed: int | None = None,
    ) -> tuple[SampleReport | np.ndarray | Conditioning | Trajectory, ...]:
        """Samples B images of one group with the training plan of one iteration and the weights of a policy version.

        `noise_seed` is the seed of the group's first image, if it is not among `seeds`. Returns a SampleReport, the
        images uint8 [B, H, W, 3], their Conditioning, and one Trajectory for each seed.
        """
        samples, conditioning, seconds = self._denoise([text] * len(seeds), seeds, plan, version, weights, noise_seed)
        images, decoding = self.decode(samples.latents)
        report = SampleReport(version, len(seeds), seconds + decoding)
        return report, images, conditioning[0], *samples.trajectories

    def generate(
        self, texts: Sequence[str], seeds: Sequence[int], plan: SamplingPlan, version: int, weights: Weights
    ) -> tuple[SampleReport, np.ndarray]:
        """Generates one image for each (text, seed) with `plan`: a report, and images uint8 [B, H, W, 3]."""
        samples, _, denoising = self._denoise(texts, seeds, plan, version, weights)
        images, decoding = self.decode(samples.latents)
        return SampleReport(version, len(seeds), denoising + decoding), images

    def decode(self, latents: torch.Tensor) -> tuple[np.ndarray, float]:
        """Decodes latents that are on the CPU to images uint8 [B, H, W, 3]. Returns them and the seconds it took.

        On a GPU it uses its own stream, because otherwise its kernels would queue behind the other call's. The stream
        need not wait for the denoising, since the latents were copied to the CPU. Encoding ends with a copy too.
        """
        with self._decoding, torch.cuda.stream(self._decoding_stream):
            started = time.perf_counter()
            return self.policy.decode(latents), time.perf_counter() - started

    def _denoise(
        self,
        texts: Sequence[str],
        seeds: Sequence[int],
        plan: SamplingPlan,
        version: int,
        weights: Weights,
        noise_seed: int | None = None,
    ) -> tuple[Samples, list[Conditioning], float]:
        """Returns samples on the CPU, the conditioning of each text, and the seconds that both took."""
        conditioning, encoding = self._encode(texts)
        with self._transformer:
            started = time.perf_counter()
            with weights():
                samples = sample(self.policy, conditioning, seeds, plan, version, noise_seed)
            return samples, conditioning, encoding + time.perf_counter() - started

    def _encode(self, texts: Sequence[str]) -> tuple[list[Conditioning], float]:
        """Returns the conditioning of each text, the same object for equal texts, and the seconds it took."""
        with self._encoding, torch.cuda.stream(self._encoding_stream):
            started = time.perf_counter()
            return self._encoded.get(texts), time.perf_counter() - started

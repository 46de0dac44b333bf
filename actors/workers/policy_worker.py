"""The worker of `policy.placement=colocated`: a learner rank that samples too, with the policy that it trains."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import numpy as np
import ray

from actors.policy.image_sampler import ImageSampler
from actors.policy.plan import SamplingPlan
from actors.types import Conditioning, SampleReport, Trajectory
from actors.workers.faults import ends_on_device_fault
from actors.workers.learner import LearnerRank
from actors.workers.sampling_calls import CALLS_PER_ACTOR, WeightsHandle

_SAMPLING = "sampling"
"""Concurrency group of the sampling methods. All others run one after the other, in the order of their calls."""


@ends_on_device_fault("worker")
class PolicyWorker(LearnerRank):
    """A learner rank around an ImageSampler. Both share one policy: the base is loaded once.

    The weights that it learns are those that it samples with, so none are sent to it. The driver makes no sampling call
    between the first optimizer step of an iteration and its end.
    """

    transformer_only: ClassVar[bool] = False
    role: ClassVar[str] = "policy_worker"

    def __repr__(self) -> str:
        """The name in Ray's dashboard and logs."""
        return f"policy worker {self.rank} of {self.job.settings.learner.ranks}"

    def start(self, address: str) -> int:
        """See LearnerRank."""
        version = super().start(address)
        self.sampler = ImageSampler(self.learner.policy, self._policy_lock)
        return version

    @ray.method(concurrency_group=_SAMPLING)
    def sample_group(
        self,
        text: str,
        seeds: Sequence[int],
        weights: WeightsHandle,
        plan: SamplingPlan,
        noise_seed: int | None = None,
    ) -> tuple[SampleReport | np.ndarray | Conditioning | Trajectory, ...]:
        """See Rollout.sample_group. Raises ValueError if this rank has other weights."""
        with self.profiler.call("sample_group", weights.version + 1):
            return self.sampler.sample(text, seeds, plan, weights.version, partial(self._weights, weights), noise_seed)

    @ray.method(concurrency_group=_SAMPLING)
    def generate_images(
        self, texts: Sequence[str], seeds: Sequence[int], weights: WeightsHandle, plan: SamplingPlan
    ) -> tuple[SampleReport, np.ndarray]:
        """See Rollout.generate_images. Raises ValueError if this rank has other weights."""
        return self.sampler.generate(texts, seeds, plan, weights.version, partial(self._weights, weights))

    @contextmanager
    def _weights(self, weights: WeightsHandle) -> Generator[None]:
        """Context in which the policy has the weights of its version that sample, or their moving average."""
        learner = self.learner
        if weights.version != learner.version or self._stepped:
            raise ValueError(
                f"a call for the weights of version {weights.version} reached a rank that learns from version "
                f"{learner.version}{' and has stepped' if self._stepped else ''}"
            )
        if not weights.averaged:
            with learner.sampling():
                yield
            return
        trained = {key: value.clone() for key, value in learner.policy.lora_state().items()}
        learner.policy.load_lora(learner.ema.weights)
        try:
            yield
        finally:
            learner.policy.load_lora(trained)


def policy_worker_actor(gpus: float) -> Any:
    """The actor class. On a GPU two sampling calls run at once; see ImageSampler."""
    # On CPUs a second call would use more cores than policy.learner.threads.
    calls = CALLS_PER_ACTOR if gpus else 1
    remote: Any = ray.remote  # its type leaves out concurrency groups
    return remote(concurrency_groups={_SAMPLING: calls})(PolicyWorker)

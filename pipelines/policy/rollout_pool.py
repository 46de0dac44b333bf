"""What the pool of workers is asked: to sample groups to train on, and to generate held-out images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import ray

from actors.policy.plan import SamplingPlan
from actors.types import Conditioning, SampleReport, Trajectory
from actors.workers.sampling_calls import WeightsHandle, sampling_returns
from pipelines.policy.light_tasks import concatenate
from pipelines.policy.slot_queue import Priority
from pipelines.policy.supervision import Supervision
from pipelines.policy.tasks import gather_or_cancel
from pipelines.policy.timing import now
from pipelines.policy.worker_pool import WorkerPool

EVALUATION_PRIORITY: Priority = (-1, 0)
"""Held-out evaluation is served before every training group."""

Images = ray.ObjectRef[np.ndarray]
"""Reference to uint8 [B, H, W, 3]."""


@dataclass(frozen=True)
class SampledGroup:
    """What workers returned for a group, as references."""

    report: SampleReport
    images: Images
    conditioning: ray.ObjectRef[Conditioning]
    trajectories: tuple[ray.ObjectRef[Trajectory], ...]
    """One for each seed."""
    sampled_at: float
    """`now()` when the last call returned."""


class RolloutPool(WorkerPool):
    """The pool of workers that sample. The result of a call does not depend on the worker that makes it."""

    def __init__(
        self,
        start: Callable[[], Any],
        max_actors: int,
        min_actors: int = 1,
        kill: Callable[[Any], object] = ray.kill,
        supervision: Supervision | None = None,
        join_images: Callable[[Sequence[Images]], Images] | None = None,
    ) -> None:
        """See WorkerPool. `join_images` makes one object of the images of several calls; None: by a Ray task."""
        self._join_images = join_images or join_images_remotely
        super().__init__(start, max_actors, min_actors, kill, supervision)

    async def sample_group(
        self,
        priority: Priority,
        text: str,
        seeds: Sequence[int],
        weights: Callable[[], WeightsHandle],
        plan: SamplingPlan,
    ) -> SampledGroup:
        """Samples one group, in calls of `plan.max_batch` images (0: one call), to whichever workers are free.

        `weights` is asked when the first worker is free, so that the newest version is used. The workers' number does
        not change the result: each image draws from its own seed, and the forward passes have the same shapes.
        """
        size = plan.max_batch or len(seeds)
        parts = [seeds[first : first + size] for first in range(0, len(seeds), size)]
        chosen: list[WeightsHandle] = []  # the whole group is of one version

        def sample(part: Sequence[int], worker: Any) -> list[ray.ObjectRef[Any]]:
            if not chosen:
                chosen.append(weights())
            method = worker.sample_group.options(
                num_returns=sampling_returns(len(part)), name=f"sample {len(part)} images to train on"
            )
            return method.remote(text, part, chosen[0], plan, seeds[0])

        results = await gather_or_cancel(*(self.call("sample", priority, partial(sample, part)) for part in parts))
        reports = [report for report, _ in results]
        images = [references[0] for _, references in results]
        return SampledGroup(
            report=SampleReport(reports[0].policy_version, len(seeds), sum(report.seconds for report in reports)),
            images=images[0] if len(images) == 1 else self._join_images(images),
            conditioning=results[0][1][1],
            trajectories=tuple(reference for _, references in results for reference in references[2:]),
            sampled_at=now(),
        )

    async def generate_images(
        self, texts: Sequence[str], seeds: Sequence[int], weights: WeightsHandle, plan: SamplingPlan
    ) -> Images:
        """Generates one image for each (text, seed)."""
        name = f"generate {len(seeds)} held-out images of version {weights.version}"
        _, (images,) = await self.call(
            "evaluate",
            EVALUATION_PRIORITY,
            lambda actor: actor.generate_images.options(num_returns=2, name=name).remote(texts, seeds, weights, plan),
        )
        return images


def join_images_remotely(images: Sequence[Images]) -> Images:
    """Makes one object of a group's images, so that its scores do not depend on how it was sampled.

    In a Ray task, so that the driver holds no images.
    """
    return concatenate.remote(*images)

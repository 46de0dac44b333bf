"""Evaluation during training: held-out prompts, drawn by the rollout actors, judged where the pictures are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import ray
from PIL import Image
from ray.exceptions import ObjectLostError

from actors.policy.plan import SamplingPlan
from actors.types import Prompt
from actors.workers.rollout import WeightsHandle
from pipelines.common.prompts import HeldOut
from pipelines.common.seeds import sample_seed
from pipelines.policy.checker_metrics import CheckerCounts, count_remotely
from pipelines.policy.collector import Rewards
from pipelines.policy.image_grid import image_grid
from pipelines.policy.metrics import EvaluationRow, mean_of_numbers
from pipelines.policy.rollout_pool import RolloutPool

BATCH = 24
"""Images of one call, as in a training group."""
SHOWN = 6
"""Pictures of short prompts, and as many of long ones, that are looked at by people."""
NO_PICTURES = np.zeros((0, 0, 0, 3), np.uint8)


@dataclass(frozen=True)
class _Judged:
    counts: CheckerCounts
    scores: np.ndarray  # [B]
    pictures: np.ndarray  # uint8 [SHOWN, H, W, 3], the first ones


class HeldOutEvaluation:
    """The same prompts and seeds at every call, so that curves compare like with like."""

    def __init__(
        self,
        rollouts: RolloutPool,
        rewards: Rewards,
        prompts: HeldOut,
        plan: SamplingPlan,
        seed: int,
        exact: bool,
    ) -> None:
        """`exact` has the scenes' checker judge the pictures too; no other world has one."""
        self.rollouts, self.rewards, self.prompts = rollouts, rewards, prompts
        self.plan, self.seed, self.exact = plan, seed, exact

    async def run(self, weights: WeightsHandle, training_seconds: float) -> tuple[EvaluationRow, Image.Image]:
        """Draws and judges all held-out prompts. Returns what was measured, and a sheet with some of the pictures."""
        started = time.perf_counter()
        short, long = await asyncio.gather(
            self._judge(self.prompts.short, weights, 0), self._judge(self.prompts.long, weights, 1)
        )
        scores = np.concatenate((short.scores, long.scores))
        row = EvaluationRow(
            iteration=weights.version,
            training_seconds=training_seconds,
            evaluation_seconds=time.perf_counter() - started,
            images=len(scores),
            relation_accuracy_short=_share(short.counts.right, short.counts.relations),
            relation_accuracy_long=_share(long.counts.right, long.counts.relations),
            object_accuracy_short=_share(short.counts.present, short.counts.objects),
            object_accuracy_long=_share(long.counts.present, long.counts.objects),
            relation_reversed_short=_share(short.counts.reversed, short.counts.relations),
            relation_reversed_long=_share(long.counts.reversed, long.counts.relations),
            reward_mean=mean_of_numbers(scores),
            reward_mean_short=mean_of_numbers(short.scores),
            reward_mean_long=mean_of_numbers(long.scores),
        )
        return row, self._sheet(short, long)

    def _sheet(self, short: _Judged, long: _Judged) -> Image.Image:
        named = [("short", short, self.prompts.short), ("long", long, self.prompts.long)]
        drawn = [(name, judged, prompts) for name, judged, prompts in named if len(judged.pictures)]
        return image_grid(
            [judged.pictures for _, judged, _ in drawn],
            [
                [f"{mu:+.2f}  {prompt.text}" for mu, prompt in zip(judged.scores[:SHOWN], prompts, strict=False)]
                for _, judged, prompts in drawn
            ],
            [name for name, _, _ in drawn],
        )

    async def _judge(self, prompts: Sequence[Prompt], weights: WeightsHandle, kind: int) -> _Judged:
        batches = [prompts[start : start + BATCH] for start in range(0, len(prompts), BATCH)]
        judged = await asyncio.gather(
            *(self._judge_batch(batch, weights, kind, i * BATCH) for i, batch in enumerate(batches))
        )
        counts = sum((part.counts for part in judged), CheckerCounts())
        pictures = judged[0].pictures if judged else NO_PICTURES
        return _Judged(counts, np.concatenate([np.zeros(0), *(part.scores for part in judged)]), pictures)

    async def _judge_batch(self, prompts: Sequence[Prompt], weights: WeightsHandle, kind: int, first: int) -> _Judged:
        texts = tuple(prompt.text for prompt in prompts)
        seeds = [sample_seed(self.seed, kind, first + i, 0) for i in range(len(prompts))]
        while True:
            images = await self.rollouts.generate_images(texts, seeds, weights, self.plan)
            counting = count_remotely.remote(images, tuple(prompts)) if self.exact else None
            try:
                scores = await self.rewards.score(images, texts)
                shown = await first_of.remote(images, SHOWN) if first == 0 else NO_PICTURES
                return _Judged(await counting if counting else CheckerCounts(), scores.mu, shown)
            except ObjectLostError:  # their node took the images with it: the same ones are drawn again
                continue


@ray.remote(num_cpus=0)
def first_of(images: np.ndarray, count: int) -> np.ndarray:
    """The first images: a task, so that only they travel to the driver."""
    return images[:count]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")

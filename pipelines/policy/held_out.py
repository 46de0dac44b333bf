"""Evaluation during training: all workers generate images of held-out prompts, and the rewards score them."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from PIL import Image
from ray.exceptions import ObjectLostError

from actors.policy.plan import SamplingPlan
from actors.types import Prompt, Scores
from actors.workers.sampling_calls import WeightsHandle
from pipelines.common.prompts import HeldOut
from pipelines.common.seeds import sample_seed
from pipelines.policy.checker_metrics import CheckerCounts, count_outcomes_remotely
from pipelines.policy.collector import Rewards
from pipelines.policy.image_grid import image_grid
from pipelines.policy.light_tasks import first_images
from pipelines.policy.measures import joined, measure_remotely, other_rewards, summarize_all
from pipelines.policy.metrics import EvaluationRow, mean_of_numbers
from pipelines.policy.rollout_pool import RolloutPool
from pipelines.policy.tasks import gather_or_cancel
from pipelines.policy.timing import now

BATCH = 24
"""Images of one call, unless `policy.sampling.batch` says how many a forward pass has."""
SHOWN = 6
"""Images of short prompts, and as many of long ones, in the grid that people look at."""
NO_IMAGES = np.zeros((0, 0, 0, 3), np.uint8)


@dataclass(frozen=True)
class _Scored:
    """Images of prompts of one kind, after scoring and checking."""

    counts: CheckerCounts
    scores: np.ndarray
    """[B]"""
    measures: Mapping[str, np.ndarray]
    """Measure -> its values [B]; of the diversity, one for each prompt with a second image."""
    images: np.ndarray
    """The first ones, uint8 [SHOWN, H, W, 3]."""


class HeldOutEvaluation:
    """Evaluates policy versions on the same prompts and seeds each time, so that the results are comparable."""

    def __init__(
        self,
        rollouts: RolloutPool,
        rewards: Rewards,
        prompts: HeldOut,
        plan: SamplingPlan,
        seed: int,
        exact: bool,
        diversity_prompts: int = 0,
    ) -> None:
        """`exact`: also use the exact checker, which only the scenes world has.

        `diversity_prompts`: number of prompts that get a second image, half of them long ones.
        """
        self.rollouts, self.rewards, self.prompts = rollouts, rewards, prompts
        self.plan, self.seed, self.exact, self._pairs = plan, seed, exact, diversity_prompts // 2
        self._batch = plan.max_batch or BATCH  # one forward pass a call, so that all workers have calls

    async def run(self, weights: WeightsHandle, training_seconds: float) -> tuple[EvaluationRow, Image.Image]:
        """Generates and scores one image for each held-out prompt. Returns the metrics and a grid of some images."""
        started = now()
        short, long = await gather_or_cancel(
            self._evaluate(self.prompts.short, weights, 0), self._evaluate(self.prompts.long, weights, 1)
        )
        scores = np.concatenate((short.scores, long.scores))
        row = EvaluationRow(
            iteration=weights.version,
            training_seconds=training_seconds,
            evaluation_seconds=now() - started,
            images=len(scores),
            relation_accuracy_short=_fraction(short.counts.right, short.counts.relations),
            relation_accuracy_long=_fraction(long.counts.right, long.counts.relations),
            object_accuracy_short=_fraction(short.counts.present, short.counts.objects),
            object_accuracy_long=_fraction(long.counts.present, long.counts.objects),
            relation_reversed_short=_fraction(short.counts.reversed, short.counts.relations),
            relation_reversed_long=_fraction(long.counts.reversed, long.counts.relations),
            reward_mean=mean_of_numbers(scores),
            reward_mean_short=mean_of_numbers(short.scores),
            reward_mean_long=mean_of_numbers(long.scores),
            unrequested_short=_fraction(short.counts.unrequested, short.counts.images),
            unrequested_long=_fraction(long.counts.unrequested, long.counts.images),
            measures=summarize_all([short.measures, long.measures], short.counts + long.counts),
        )
        return row, self._grid(short, long)

    def _grid(self, short: _Scored, long: _Scored) -> Image.Image:
        kinds = [("short", short, self.prompts.short), ("long", long, self.prompts.long)]
        shown = [(name, scored, prompts) for name, scored, prompts in kinds if len(scored.images)]
        return image_grid(
            [scored.images for _, scored, _ in shown],
            [
                [f"{mu:+.2f}  {prompt.text}" for mu, prompt in zip(scored.scores[:SHOWN], prompts, strict=False)]
                for _, scored, prompts in shown
            ],
            [name for name, _, _ in shown],
        )

    async def _evaluate(self, prompts: Sequence[Prompt], weights: WeightsHandle, kind: int) -> _Scored:
        firsts = range(0, len(prompts), self._batch)
        parts = await gather_or_cancel(
            *(self._evaluate_batch(prompts[first : first + self._batch], weights, kind, first) for first in firsts)
        )
        counts = sum((part.counts for part in parts), CheckerCounts())
        shown = [part.images for part in parts if len(part.images)]
        images = np.concatenate(shown) if shown else NO_IMAGES
        scores = np.concatenate([np.zeros(0), *(part.scores for part in parts)])
        return _Scored(counts, scores, joined([part.measures for part in parts]), images)

    async def _evaluate_batch(
        self, prompts: Sequence[Prompt], weights: WeightsHandle, kind: int, first: int
    ) -> _Scored:
        """Evaluates prompts `first`, `first + 1`, … of one kind (0: short, 1: long), again if their images are lost."""
        texts = tuple(prompt.text for prompt in prompts)
        seeds, others = ([sample_seed(self.seed, kind, first + i, n) for i in range(len(prompts))] for n in (0, 1))
        pairs = max(min(self._pairs - first, len(prompts)), 0)
        while True:
            images, *second = await gather_or_cancel(
                self.rollouts.generate_images(texts, seeds, weights, self.plan),
                *([self.rollouts.generate_images(texts[:pairs], others[:pairs], weights, self.plan)] if pairs else []),
            )
            counting = count_outcomes_remotely.remote(images, tuple(prompts)) if self.exact else None
            measuring = measure_remotely.remote(images, *second)
            try:
                scores, watched = await self._score(images, texts)
                shown = await first_images.remote(images, SHOWN - first) if first < SHOWN else NO_IMAGES
                counts = await counting if counting else CheckerCounts()
                return _Scored(counts, scores.mu, {**await measuring, **other_rewards(scores, watched)}, shown)
            except ObjectLostError:  # the node with the images died
                continue

    async def _score(
        self, images: ray.ObjectRef[np.ndarray], texts: tuple[str, ...]
    ) -> tuple[Scores, dict[str, Scores]]:
        """The trained reward and the watched ones, at once."""
        work: list[Coroutine[Any, Any, Any]] = [
            self.rewards.score_held_out(images, texts),
            self.rewards.watch(images, texts),
        ]
        found: list[Any] = await gather_or_cancel(*work)
        return found[0], found[1]


def _fraction(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")

"""Scoring calls on one replica: large ones alone, small ones together, and each of these alone if that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from actors.types import Scores

if TYPE_CHECKING:
    from actors.spatialscore.scorer import SpatialScorer


@dataclass(frozen=True)
class ScoreCall:
    """One call's images and prompts, already checked."""

    images: Sequence[np.ndarray]  # B of uint8 [H, W, 3]
    prompts: Sequence[str]


class CallScorer:
    """Scores the calls of one replica, one batch at a time."""

    def __init__(self, scorer: SpatialScorer) -> None:
        self._scorer = scorer
        self._busy = asyncio.Lock()

    def is_large(self, call: ScoreCall) -> bool:
        """Whether a call fills half of a forward pass, as a group of the policy does. Such a call is scored alone.

        The last bits of its scores then do not depend on the other calls. A run whose workers were killed therefore
        ends like an undisturbed one, bit for bit.
        """
        return 2 * len(call.prompts) >= self._scorer.batch_images

    async def score_alone(self, call: ScoreCall) -> Scores | Exception:
        """The scores of one call, or its own error. Its caller does not wait for the calls that came after it."""
        return (await self.score_together([call]))[0]

    async def score_together(self, calls: Sequence[ScoreCall]) -> list[Scores | Exception]:
        """The scores of each call, or its own error. Small calls are combined to fill forward passes."""
        async with self._busy:
            return await asyncio.to_thread(_score_each, self._scorer, calls)


def _score_each(scorer: SpatialScorer, calls: Sequence[ScoreCall]) -> list[Scores | Exception]:
    """Scores the calls together. If that fails, each call gets its own scores or its own error.

    The boundary between clients: any error of a joint batch, out of memory too, may be the fault of one of them.
    """
    try:
        return list[Scores | Exception](_score_together(scorer, calls))
    except Exception as error:
        if len(calls) == 1:
            return [error]
    return [outcome for call in calls for outcome in _score_each(scorer, [call])]


def _score_together(scorer: SpatialScorer, calls: Sequence[ScoreCall]) -> list[Scores]:
    """Scores several calls as one batch, and splits the result by call."""
    images = [image for call in calls for image in call.images]
    prompts = [prompt for call in calls for prompt in call.prompts]
    if not prompts:
        return [Scores(np.empty(0, np.float32), np.empty(0, np.float32)) for _ in calls]
    scores = scorer.score(images, prompts)
    ends = np.cumsum([len(call.prompts) for call in calls])[:-1]
    parts = zip(np.split(scores.mu, ends), np.split(scores.sigma, ends), strict=True)
    return [Scores(mu, sigma) for mu, sigma in parts]

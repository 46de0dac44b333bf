"""From a prompt to what the page shows: the line, the images, the scores and the exact verdict, as events.

{"state": "waiting", "ahead": 2}
{"state": "sampling", "done": 0.25}
{"state": "scoring"}
{"state": "done", "prompt": …, "seed": …, "seconds": …, "base": {…}, "tuned": {…}}      see `shown`
{"state": "failed", "reason": …}
"""

from __future__ import annotations

import asyncio
import base64
import logging
import math
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import numpy as np
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from actors.policy.comparison import Comparison
from actors.reward_input import InputError
from actors.rewards.errors import RewardError
from actors.types import Prompt, Scores
from actors.workers.faults import DeviceFaultError
from actors.workers.reward import RewardPool
from actors.workers.score_body import Refused
from pipelines.common.images import encode_png
from pipelines.evaluation.images import inspect_image
from pipelines.play.line import Line, LineFullError

Event = dict[str, Any]
RETRY_AFTER_S = 10


class PlayService:
    """Answers prompts, as many at once as there are copies of the policy."""

    def __init__(
        self, sampler: DeploymentHandle[Any], rewards: Mapping[str, RewardPool], line: Line, exact: bool
    ) -> None:
        """`rewards`: by the name that the page shows. `exact`: also use the exact checker of the scenes world."""
        self._sampler, self._rewards, self._line, self._exact = sampler, rewards, line, exact

    async def events(self, prompt: Prompt, seed: int) -> AsyncGenerator[Event]:
        """Yields what happens to a prompt, its result last. Raises Refused, before all else, if too many wait."""
        try:
            with self._line.place() as place:
                while ahead := place.ahead:
                    yield {"state": "waiting", "ahead": ahead}
                    await place.wait()
                async with aclosing(self._served(prompt, seed)) as events:
                    async for event in events:
                        yield event
        except LineFullError:
            raise Refused(
                503,
                f"busy: as many prompts as may wait are waiting. Send this one again in {RETRY_AFTER_S} s",
                {"Retry-After": str(RETRY_AFTER_S)},
            ) from None

    async def _served(self, prompt: Prompt, seed: int) -> AsyncGenerator[Event]:
        started, both = time.monotonic(), None
        yield {"state": "sampling", "done": 0.0}
        try:
            async with aclosing(self._sample(prompt.text, seed)) as parts:
                async for part in parts:
                    if isinstance(part, Comparison):
                        both = part
                    else:
                        yield {"state": "sampling", "done": part}
        except (RayError, RayServeException) as error:
            yield {"state": "failed", "reason": _reason(error)}
            return
        assert both, "a replica ends with the images, or raises"
        yield {"state": "scoring"}
        scores = await self._scores(prompt, both)
        images = {"base": both.base, "tuned": both.tuned}
        sides = {
            name: shown(image, prompt, {reward: _at(scored, i) for reward, scored in scores.items()}, self._exact)
            for i, (name, image) in enumerate(images.items())
        }
        seconds = round(time.monotonic() - started, 2)
        yield {"state": "done", "prompt": prompt.text, "seed": seed, "seconds": seconds, **sides}

    async def _sample(self, text: str, seed: int) -> AsyncGenerator[float | Comparison]:
        """What the replica yields. Cancels its work if the visitor leaves."""
        parts: Any = self._sampler.options(stream=True).sample.remote(text, seed)
        try:
            async for part in parts:
                yield part
        finally:
            parts.cancel()

    async def _scores(self, prompt: Prompt, compared: Comparison) -> dict[str, Scores | None]:
        """The scores of both images by each reward; None if a reward cannot score them."""
        images, texts = np.stack([compared.base, compared.tuned]), [prompt.text] * 2

        async def score(name: str, pool: RewardPool) -> Scores | None:
            try:
                return await pool.score(images, texts)
            except (RayError, RayServeException, RewardError, InputError):
                logging.getLogger("ray.serve").exception("%s could not score an image", name)
                return None

        found = await asyncio.gather(*(score(name, pool) for name, pool in self._rewards.items()))
        return dict(zip(self._rewards, found, strict=True))


def shown(image: np.ndarray, prompt: Prompt, scores: Mapping[str, float | None], exact: bool) -> Event:
    """What the page shows of one image: the PNG file, its scores and, in the scenes world, the exact verdict."""
    answer: Event = {"png": base64.b64encode(encode_png(image)).decode(), "scores": dict(scores), "verdict": None}
    if exact and prompt.relations:
        seen = inspect_image(image, prompt, math.nan)
        answer["verdict"] = {
            "perfect": seen.perfect,
            "relations": [
                {
                    "text": f"{each.subject} {each.relation} {each.object}",
                    "holds": outcome == "right",
                    "instead": instead,
                }
                for each, outcome, instead in zip(prompt.relations, seen.outcomes, seen.instead, strict=True)
            ],
            "missing": [name for name, present in seen.present.items() if not present],
            "unrequested": list(seen.unrequested),
        }
    return answer


def _at(scores: Scores | None, index: int) -> float | None:
    """The score of one image; None if there is no number."""
    score = math.nan if scores is None else float(scores.mu[index])
    return score if math.isfinite(score) else None


def _reason(error: Exception) -> str:
    """Why there are no images, in words for a visitor. What they cannot know is in Serve's log."""
    cause = getattr(error, "cause", None) if isinstance(error, RayTaskError) else error
    if isinstance(cause, InputError):
        return str(cause)
    if isinstance(cause, DeviceFaultError) and cause.fault.kind == "out_of_memory":
        return "the memory of the GPU is full: end other programs that use it, or start play with smaller images"
    logging.getLogger("ray.serve").error("sampling failed", exc_info=error)
    if isinstance(cause, (RayActorError, RayServeException, DeviceFaultError)):
        return "the process that makes the images ended and is started again: send the prompt again in a minute"
    return f"making the images failed with {type(cause).__name__}: Serve's log says more"

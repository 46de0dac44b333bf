"""The reward pool gives the scorer's scores: by reference, and while a replica dies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import ray
import torch

from actors.spatialscore import SpatialScorer
from actors.types import Scores
from actors.workers.reward import RewardPool, ScoreReplica
from conf.serving import ServingSettings
from tests.support.served_model import ServedModel

pytestmark = pytest.mark.ray
PROMPTS = ("a red circle left of a blue square",) * 4


def test_scores_of_referenced_images_equal_the_scorers(served: ServedModel, images: np.ndarray) -> None:
    pool = served.pool
    scores = asyncio.run(pool.score(ray.put(images), PROMPTS))
    expected = SpatialScorer.from_pretrained(served.model).score(images, PROMPTS)
    np.testing.assert_allclose(scores.mu, expected.mu, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(scores.sigma, expected.sigma, rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="every image needs its prompt"):
        asyncio.run(pool.score(ray.put(images), PROMPTS[:2]))


def test_no_score_is_lost_when_a_replica_is_killed(served: ServedModel, images: np.ndarray) -> None:
    pool = served.pool
    assert pool.replicas() == 2
    references = [ray.put(np.roll(images, shift, axis=2)) for shift in range(60)]
    expected = [asyncio.run(pool.score(reference, PROMPTS)).mu for reference in references]

    async def under_load() -> list[np.ndarray]:
        calls = [asyncio.create_task(_mu(pool, reference)) for reference in references]
        await asyncio.sleep(0.05)
        ray.kill(_replicas()[0])
        return await asyncio.gather(*calls)

    scores = asyncio.run(under_load())
    np.testing.assert_allclose(np.stack(scores), np.stack(expected), rtol=1e-3, atol=1e-5)


def test_a_replica_whose_weights_change_fails_its_health_check(served: ServedModel) -> None:
    replica = ScoreReplica(str(served.model), ServingSettings())
    replica.check_health()
    with torch.no_grad():
        replica.scorer.model.head.layers[2].bias.add_(1.0)
    with pytest.raises(RuntimeError, match="weights"):
        replica.check_health()
    with torch.no_grad():
        replica.scorer.model.head.layers[2].bias.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="nan"):
        replica.check_health()


def test_a_large_call_is_answered_before_the_next_one_is_scored(
    served: ServedModel, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three groups arrive at once. The first one's caller has its scores when the last one's scoring starts."""
    replica = ScoreReplica(str(served.model), ServingSettings(batch_images=len(images)))
    score, answered = replica.scorer.score, list[int]()
    callers: list[asyncio.Task[Scores]] = []

    def count_answers(batch: np.ndarray, prompts: Sequence[str]) -> Scores:
        answered.append(sum(caller.done() for caller in callers))
        return score(batch, prompts)

    async def three_callers() -> None:
        callers.extend(asyncio.create_task(replica.score(images, PROMPTS)) for _ in range(3))
        await asyncio.gather(*callers)

    monkeypatch.setattr(replica.scorer, "score", count_answers)
    asyncio.run(three_callers())
    assert answered == [0, 1, 2]


async def _mu(pool: RewardPool, reference: ray.ObjectRef[np.ndarray]) -> np.ndarray:
    return (await pool.score(reference, PROMPTS)).mu


def _replicas() -> list[ray.actor.ActorHandle[Any]]:
    named = ray.util.list_named_actors(all_namespaces=True)
    return [ray.get_actor(**actor) for actor in named if "#ScoreReplica#" in actor["name"]]

"""The rewards of stage 3: one reward or a weighted sum of several, each a Serve application."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import ray
from ray import serve

from actors.rewards.detector import DIRECTIONS
from actors.rewards.vlm_judge import JudgeReward
from actors.services.keys import key_of
from actors.types import Prompt, Relation, Scores
from actors.worker_setup import actor_options
from actors.workers.detector import DetectorReplica
from actors.workers.reward import RewardPool, application_name, autoscaling_config, serve_replicas, start_pool
from conf import UserError
from conf.settings import Settings
from pipelines.common.prompts import draw_held_out_prompts, draw_training_prompts
from pipelines.common.relations import MEANINGS, Fact
from pipelines.common.resources import ResourceRequest
from pipelines.common.scenes_only import check_rules_reward
from pipelines.common.spatial_logic import implied
from pipelines.policy.resources import Replicas, detector_request, judge_request, rules_request, spatialscore_request
from pipelines.policy.rule_reward import RulesReward
from pipelines.reward.served_model import served_model

_DIRECTION_OF = {"x": "left of", "y": "above"}
"""Axis of an order of two objects in the image -> one of DIRECTIONS."""


@dataclass(frozen=True)
class WeightedReward:
    """One term of the weighted sum."""

    weight: float
    pool: RewardPool
    request: ResourceRequest
    """The request of its replicas."""


class RewardMix:
    """The weighted sum of several rewards. If one of them gives NaN for an image, so does the sum."""

    def __init__(self, terms: Sequence[WeightedReward]) -> None:
        self._terms = tuple(terms)

    @property
    def retries(self) -> int:
        """Scoring calls that were repeated, over all pools."""
        return sum(term.pool.retries for term in self._terms)

    async def score(self, images: ray.ObjectRef[np.ndarray], prompts: Sequence[str]) -> Scores:
        """Returns sum_i w_i mu_i, and the sigma of this sum of independent Gaussians. See RewardPool.score."""
        parts = await asyncio.gather(*(term.pool.score(images, prompts) for term in self._terms))
        weights = [term.weight for term in self._terms]
        mu = sum(weight * part.mu for weight, part in zip(weights, parts, strict=True))
        variance = sum((weight * part.sigma) ** 2 for weight, part in zip(weights, parts, strict=True))
        return Scores(np.asarray(mu, np.float32), np.sqrt(np.asarray(variance, np.float32)))

    async def replicas(self) -> list[Replicas]:
        """The running replicas of each reward."""
        running = await asyncio.gather(*(asyncio.to_thread(term.pool.replicas) for term in self._terms))
        return [Replicas(term.request, count) for term, count in zip(self._terms, running, strict=True)]

    def stop(self) -> None:
        """Removes all pools from the cluster."""
        for term in self._terms:
            term.pool.stop()


def start_rewards(settings: Settings) -> RewardMix:
    """Starts a pool for each reward that has a weight, and waits until all of them answer.

    The judge's key is read from the environment of this process and given to the judge's replica only. Raises
    UserError if there is no SpatialScore or no key, and what `relations_from_boxes` raises.
    """
    weights = settings.rewards
    check_rules_reward(settings)
    # Everything that may be refused comes before the first pool, so that no pool is left running.
    judge = _judge_application(settings) if weights.judge else None
    detector = _detector_application(settings) if weights.detector else None
    model = served_model(settings) if weights.spatialscore else ""
    terms: list[WeightedReward] = []
    if model:
        scorers = start_pool(settings.serving, model, settings.run_dir)
        terms.append(WeightedReward(weights.spatialscore, scorers, spatialscore_request(settings.serving)))
    if weights.rules:
        terms.append(start_rules(settings, weights.rules))
    if judge:
        pool = _start_pool(judge, "judge", JudgeReward.__name__, settings)
        terms.append(WeightedReward(weights.judge, pool, judge_request(settings.serving)))
    if detector:
        pool = _start_pool(detector, "detector", DetectorReplica.__name__, settings)
        terms.append(WeightedReward(weights.detector, pool, detector_request(settings.detector)))
    return RewardMix(terms)


def start_rules(settings: Settings, weight: float, relations: bool = True) -> WeightedReward:
    """Starts the exact checker as a reward and waits until it answers. Without `relations` only objects count."""
    options = actor_options(1, settings.serving.cpus, 0)
    application = serve.deployment(ray_actor_options=options)(RulesReward).bind(relations)
    pool = _start_pool(application, "rules", RulesReward.__name__, settings)
    return WeightedReward(weight, pool, rules_request(settings.serving))


def _start_pool(application: serve.Application, reward: str, deployment: str, settings: Settings) -> RewardPool:
    return serve_replicas(application, application_name(reward, settings.run_dir), deployment, settings.serving.retries)


def _judge_application(settings: Settings) -> serve.Application:
    judge = settings.judge
    options = actor_options(1, settings.serving.cpus, 0, runtime_env=judge.runtime_env)
    replica = serve.deployment(ray_actor_options=options, max_ongoing_requests=64)(JudgeReward)
    return replica.bind(judge, key_of(judge))


def _detector_application(settings: Settings) -> serve.Application:
    cfg = settings.detector
    prompts = draw_training_prompts(settings.policy, settings.flux)
    held_out = draw_held_out_prompts(settings.policy, settings.flux, settings.evaluation.seed)
    relations = relations_from_boxes([*prompts, *held_out.short, *held_out.long])
    replica = serve.deployment(
        autoscaling_config=autoscaling_config(cfg.min_replicas, cfg.max_replicas, settings.serving),
        ray_actor_options=actor_options(cfg.threads, cfg.cpus, cfg.gpus, cfg.node_group, cfg.runtime_env),
    )
    return replica(DetectorReplica).bind(cfg, relations)


def relations_from_boxes(prompts: Iterable[Prompt]) -> dict[str, tuple[Relation, ...]]:
    """Returns the text of each prompt -> its relations, in the words of the detector's DIRECTIONS.

    Raises UserError, with the prompt, if a prompt has no relations or one that boxes cannot show.
    """
    readable: dict[str, tuple[Relation, ...]] = {}
    for prompt in prompts:
        if not prompt.relations:
            raise UserError(
                f"rewards.detector needs the relations of every prompt, and {prompt.text[:60]!r} has none: add "
                '"relations": [[subject, relation, object], …] to its line'
            )
        readable[prompt.text] = tuple(_box_relation(prompt, relation) for relation in prompt.relations)
    return readable


def _box_relation(prompt: Prompt, relation: Relation) -> Relation:
    """Returns the relation as one of DIRECTIONS: "B to the right of A" becomes "A left of B"."""
    orders = [fact for fact in _facts(relation) if fact.sense in _DIRECTION_OF]
    if len(orders) != 1:
        raise UserError(
            f"rewards.detector reads {', '.join(DIRECTIONS)} from boxes, not {relation.relation!r} of "
            f"{prompt.text[:60]!r}: remove such prompts, or use rewards.spatialscore instead"
        )
    return Relation(orders[0].first, _DIRECTION_OF[orders[0].sense], orders[0].second)


def _facts(relation: Relation) -> frozenset[Fact]:
    """What a relation states; nothing if its words are not known."""
    return implied([relation]) if relation.relation in MEANINGS else frozenset()

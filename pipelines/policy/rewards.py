"""What a policy is rewarded for: one reward, or a weighted sum of several, each in a Serve application of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import ray
from ray import serve

from actors.rewards.detector import DIRECTIONS, DetectorReward
from actors.rewards.vlm_judge import JudgeReward
from actors.services.endpoint import key_of
from actors.types import Prompt, Relation, Scores
from actors.worker_setup import actor_options
from actors.workers.reward import RewardPool, application_name, autoscaling_config, serve_replicas, start_pool
from conf.flux import EMBEDDED
from conf.rewards import JudgeSettings
from conf.serving import ServingSettings
from conf.settings import Settings
from pipelines.common.prompts import draw_held_out_prompts, draw_training_prompts
from pipelines.common.relations import canonical
from pipelines.policy.resources import (
    Replicas,
    ResourceRequest,
    detector_request,
    judge_request,
    rules_request,
    spatialscore_request,
)
from pipelines.policy.rule_reward import RulesReplica
from pipelines.reward.served_model import served_model

_DIRECTION_OF = {"left": "left of", "above": "above"}  # a sense of the algebra of relations -> one of DIRECTIONS


@dataclass(frozen=True)
class WeightedReward:
    """One reward of the sum."""

    weight: float
    pool: RewardPool
    request: ResourceRequest  # its replicas'


class RewardMix:
    """Scores through several pools at once. An image that one of them cannot score is not a number for all."""

    def __init__(self, terms: Sequence[WeightedReward]) -> None:
        self._terms = tuple(terms)

    @property
    def retries(self) -> int:
        """Calls that had to be made again, over all pools."""
        return sum(term.pool.retries for term in self._terms)

    async def score(self, images: ray.ObjectRef, texts: Sequence[str]) -> Scores:
        """sum_i w_i mu_i, and the sigma of that sum of independent Gaussians. See RewardPool.score."""
        parts = await asyncio.gather(*(term.pool.score(images, texts) for term in self._terms))
        weights = [term.weight for term in self._terms]
        mu = sum(weight * part.mu for weight, part in zip(weights, parts, strict=True))
        variance = sum((weight * part.sigma) ** 2 for weight, part in zip(weights, parts, strict=True))
        return Scores(np.asarray(mu, np.float32), np.sqrt(np.asarray(variance, np.float32)))

    async def replicas(self) -> list[Replicas]:
        """Every reward's replicas that are running now."""
        running = await asyncio.gather(*(asyncio.to_thread(term.pool.replicas) for term in self._terms))
        return [Replicas(term.request, count) for term, count in zip(self._terms, running, strict=True)]

    def stop(self) -> None:
        """Removes all pools from the cluster."""
        for term in self._terms:
            term.pool.stop()


def start_rewards(settings: Settings) -> RewardMix:
    """Starts a pool for every reward that has a weight in `settings.mix`, and waits until they answer.

    The judge's key is read from this process's environment and given to its replicas alone.
    Raises FileNotFoundError where SpatialScore has a weight but stage 2 has left no model, ValueError where the rules
    are asked to read other pictures than those of the scenes world, where the judge's key is not set, or the detector
    is asked for a prompt whose relations are not given or cannot be read from boxes.
    """
    mix, pool = settings.rewards, settings.serving
    if mix.rules and settings.flux.model != EMBEDDED:
        raise ValueError(
            f"rewards.rules reads pictures of the scenes world only, not of flux.model={settings.flux.model}"
        )
    # what can be refused comes first, so that nothing is left running
    judge = _judge(settings.judge, pool) if mix.judge else None
    detector = _detector(settings) if mix.detector else None
    terms: list[WeightedReward] = []
    if mix.spatialscore:
        scorers = start_pool(pool, served_model(settings), settings.run_dir)
        terms.append(WeightedReward(mix.spatialscore, scorers, spatialscore_request(pool)))
    if mix.rules:
        terms.append(rules_term(settings, mix.rules))
    if judge:
        replicas = _serve(judge, "judge", JudgeReward.__name__, settings)
        terms.append(WeightedReward(mix.judge, replicas, judge_request(pool)))
    if detector:
        replicas = _serve(detector, "detector", DetectorReward.__name__, settings)
        terms.append(WeightedReward(mix.detector, replicas, detector_request(settings.detector)))
    return RewardMix(terms)


def rules_term(settings: Settings, weight: float, relations: bool = True) -> WeightedReward:
    """Starts the exact checker as a reward and waits until it answers. Without `relations` it sees objects only."""
    pool = settings.serving
    rules = serve.deployment(RulesReplica, ray_actor_options=actor_options(1, pool.cpus, 0)).bind(relations)
    return WeightedReward(weight, _serve(rules, "rules", RulesReplica.__name__, settings), rules_request(pool))


def _serve(application: serve.Application, reward: str, deployment: str, settings: Settings) -> RewardPool:
    return serve_replicas(application, application_name(reward, settings.run_dir), deployment, settings.serving.retries)


def _judge(settings: JudgeSettings, pool: ServingSettings) -> serve.Application:
    options = actor_options(1, pool.cpus, 0, runtime_env=settings.runtime_env)
    return serve.deployment(JudgeReward, ray_actor_options=options, max_ongoing_requests=64).bind(
        settings, key_of(settings)
    )


def _detector(settings: Settings) -> serve.Application:
    own = settings.detector
    prompts = draw_training_prompts(settings.policy, settings.flux)
    held_out = draw_held_out_prompts(settings.policy, settings.flux, settings.evaluation.seed)
    relations = readable_relations([*prompts, *held_out.short, *held_out.long])
    options = actor_options(own.threads, own.cpus, own.gpus, own.node_group, own.runtime_env)
    replicas = autoscaling_config(own.min_replicas, own.max_replicas, settings.serving)
    return serve.deployment(DetectorReward, autoscaling_config=replicas, ray_actor_options=options).bind(
        own, relations
    )


def readable_relations(prompts: Iterable[Prompt]) -> dict[str, tuple[Relation, ...]]:
    """A prompt's text -> its relations, in the words of the detector's DIRECTIONS.

    Raises ValueError, naming the prompt, where it has none, or one that boxes do not tell.
    """
    readable: dict[str, tuple[Relation, ...]] = {}
    for prompt in prompts:
        if not prompt.relations:
            raise ValueError(
                f"rewards.detector needs the relations of every prompt, and {prompt.text[:60]!r} has none: give its line "
                '"relations": [[subject, relation, object], …]'
            )
        readable[prompt.text] = tuple(_readable(prompt, relation) for relation in prompt.relations)
    return readable


def _readable(prompt: Prompt, relation: Relation) -> Relation:
    """`relation` as one of DIRECTIONS: "B to the right of A" is "A left of B"."""
    try:
        sense, first, second = canonical(relation)
        return Relation(first, _DIRECTION_OF[sense], second)
    except KeyError:
        raise ValueError(
            f"rewards.detector reads {', '.join(DIRECTIONS)} from boxes, not {relation.relation!r} of "
            f"{prompt.text[:60]!r}: leave such prompts out, or reward them by rewards.spatialscore"
        ) from None

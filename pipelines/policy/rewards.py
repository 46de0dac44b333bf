"""The rewards of stage 3, each a Serve application of its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial

from ray import serve

from actors.rewards.depth_order import DEPTH_RELATIONS
from actors.rewards.directions import DIRECTIONS
from actors.rewards.errors import RewardError
from actors.rewards.vlm_judge import JudgeReward
from actors.services.keys import key_in, key_of
from actors.types import Prompt, Relation
from actors.worker_setup import actor_options
from actors.workers.detector import DetectorReplica
from actors.workers.reward import RewardPool, application_name, autoscaling_config, serve_replicas, start_pool
from actors.workers.reward_replica import RewardReplica, reward_application
from actors.workers.serve_start import StartError
from conf import UserError
from conf.rewards import KINDS_WITH_A_SECTION, RewardTerm
from conf.settings import Settings
from pipelines.common.prompts import draw_held_out_prompts, draw_training_prompts
from pipelines.common.relations import MEANINGS, Fact
from pipelines.common.scenes_only import check_rules_reward
from pipelines.common.spatial_logic import implied
from pipelines.policy.call_limit import CallLimits
from pipelines.policy.resources import reward_request, rules_request
from pipelines.policy.reward_mix import RewardMix, RunningReward
from pipelines.policy.rule_reward import RulesReward
from pipelines.reward.served_model import served_model

_BOX_WORDS = {"x": "left of", "y": "above"}
"""Axis of an order of two objects in the image -> one of DIRECTIONS."""
_DEPTH_WORDS = {**_BOX_WORDS, "z": "in front of"}
"""Axis of an order of two objects -> one of DEPTH_RELATIONS."""


def start_rewards(settings: Settings, only: Collection[str] | None = None, also: Sequence[Prompt] = ()) -> RewardMix:
    """Starts a pool for each reward, and waits until all of them answer.

    `only`: names of the rewards to start (None: all). `also`: prompts that they score beside those of the run.
    The judge's key is read from the environment of this process and given to the judge's replica only. Raises
    UserError if there is no SpatialScore or no key, and what `relations_from_boxes` raises.
    """
    check_rules_reward(settings)
    rewards = {name: term for name, term in settings.used_rewards().items() if only is None or name in only}
    # Everything that can be refused without a replica comes before the first pool.
    starts = {name: prepare_reward(settings, name, term, also) for name, term in rewards.items()}
    running: list[RunningReward] = []
    absent: dict[str, str] = {}
    for name, term in rewards.items():
        try:
            pool = _started(name, starts[name])
        except RewardError as error:
            if term.trains:
                RewardMix(running).stop()
                raise
            absent[name] = str(error)
            logging.getLogger(__name__).warning("the run goes on without a watched reward: %s", error)
        except BaseException:
            RewardMix(running).stop()
            raise
        else:
            running.append(RunningReward(name, term, pool, reward_request(settings, name, term)))
    limits = CallLimits(settings.policy.call_margin_s)
    return RewardMix(running, settings.policy.algorithm.combine_rewards, absent, limits)


def _started(name: str, start: Callable[[], RewardPool]) -> RewardPool:
    """The pool. Raises RewardError if its replicas cannot be started."""
    try:
        return start()
    except StartError as error:
        raise RewardError(f"rewards.{name} cannot be started: {error}") from error


def prepare_reward(
    settings: Settings, name: str, term: RewardTerm, also: Sequence[Prompt] = ()
) -> Callable[[], RewardPool]:
    """What starts the pool of a reward. Raises UserError, before anything is started, if it cannot be started."""
    kind = term.kind_of(name)
    if kind == "spatialscore":
        return partial(start_pool, settings.serving, served_model(settings), settings.run_dir)
    if kind == "rules":
        return partial(_start_rules, settings, name)
    if kind not in KINDS_WITH_A_SECTION:
        relations = relations_in_depth([*_prompts(settings), *also], name) if kind == "depth_rules" else {}
        token = key_in(term.token_variable, f"the token of rewards.{name}") if term.token_variable else None
        application = reward_application(name, term, token, os.getcwd(), settings.serving, relations)
        return partial(_start_pool, application, name, RewardReplica.__name__, settings)
    application = _judge_application(settings) if kind == "judge" else _detector_application(settings, also)
    deployment = JudgeReward.__name__ if kind == "judge" else DetectorReplica.__name__
    return partial(_start_pool, application, name, deployment, settings)


def start_rules(settings: Settings, relations: bool = True) -> RewardMix:
    """Starts the exact checker as the only reward, with weight 1. Without `relations` only objects count."""
    pool = _start_rules(settings, "rules", relations)
    return RewardMix([RunningReward("rules", RewardTerm(weight=1.0), pool, rules_request(settings.serving))])


def _start_rules(settings: Settings, name: str, relations: bool = True) -> RewardPool:
    options = actor_options(1, settings.serving.cpus, 0)
    application = serve.deployment(ray_actor_options=options)(RulesReward).bind(relations)
    return _start_pool(application, name, RulesReward.__name__, settings)


def _start_pool(application: serve.Application, reward: str, deployment: str, settings: Settings) -> RewardPool:
    return serve_replicas(application, application_name(reward, settings.run_dir), deployment, settings.serving.retries)


def _judge_application(settings: Settings) -> serve.Application:
    judge = settings.judge
    options = actor_options(1, settings.serving.cpus, 0, runtime_env=judge.runtime_env)
    replica = serve.deployment(ray_actor_options=options, max_ongoing_requests=64)(JudgeReward)
    return replica.bind(judge, key_of(judge))


def _detector_application(settings: Settings, also: Sequence[Prompt]) -> serve.Application:
    cfg = settings.detector
    relations = relations_from_boxes([*_prompts(settings), *also])
    replica = serve.deployment(
        autoscaling_config=autoscaling_config(cfg.min_replicas, cfg.max_replicas, settings.serving),
        ray_actor_options=actor_options(cfg.threads, cfg.cpus, cfg.gpus, cfg.node_group, cfg.runtime_env),
    )
    return replica(DetectorReplica).bind(cfg, relations)


def _prompts(settings: Settings) -> list[Prompt]:
    """All prompts that a run may score."""
    held_out = draw_held_out_prompts(settings.policy, settings.flux, settings.evaluation.seed)
    return [*draw_training_prompts(settings.policy, settings.flux), *held_out.short, *held_out.long]


def relations_from_boxes(prompts: Iterable[Prompt], name: str = "detector") -> dict[str, tuple[Relation, ...]]:
    """Returns the text of each prompt -> its relations, in the words of the detector's DIRECTIONS.

    `name`: of the reward. Raises UserError, with the prompt, if it has no relations or one that boxes cannot show.
    """
    return _readable(prompts, name, _BOX_WORDS, DIRECTIONS)


def relations_in_depth(prompts: Iterable[Prompt], name: str) -> dict[str, tuple[Relation, ...]]:
    """The same in the words of DEPTH_RELATIONS, which boxes and a depth map can show."""
    return _readable(prompts, name, _DEPTH_WORDS, DEPTH_RELATIONS)


def _readable(
    prompts: Iterable[Prompt], name: str, words: Mapping[str, str], known: Sequence[str]
) -> dict[str, tuple[Relation, ...]]:
    readable: dict[str, tuple[Relation, ...]] = {}
    for prompt in prompts:
        if not prompt.relations:
            raise UserError(
                f"rewards.{name} needs the relations of every prompt, and {prompt.text[:60]!r} has none: add "
                '"relations": [[subject, relation, object], …] to its line'
            )
        readable[prompt.text] = tuple(_as_known(prompt, each, name, words, known) for each in prompt.relations)
    return readable


def _as_known(
    prompt: Prompt, relation: Relation, name: str, words: Mapping[str, str], known: Sequence[str]
) -> Relation:
    """Returns the relation as one of `known`: "B to the right of A" becomes "A left of B"."""
    orders = [fact for fact in _facts(relation) if fact.sense in words]
    if len(orders) == 1:
        return Relation(orders[0].first, words[orders[0].sense], orders[0].second)
    if relation.relation in known:
        return relation
    raise UserError(
        f"rewards.{name} reads {', '.join(known)} from {'boxes' if known == DIRECTIONS else 'boxes and depth'}, not "
        f"{relation.relation!r} of {prompt.text[:60]!r}: remove such prompts, or use rewards.spatialscore instead"
    )


def _facts(relation: Relation) -> frozenset[Fact]:
    """What a relation states; nothing if its words are not known."""
    return implied([relation]) if relation.relation in MEANINGS else frozenset()

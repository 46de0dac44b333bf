"""The rewards of stage 3, each a Serve application of its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Sequence
from functools import partial

from ray import serve

from actors.rewards.errors import RewardError
from actors.rewards.vlm_judge import JudgeReward
from actors.services.keys import key_of
from actors.types import Prompt
from actors.worker_setup import actor_options
from actors.workers.detector import DetectorReplica
from actors.workers.reward import RewardPool, application_name, autoscaling_config, serve_replicas, start_pool
from actors.workers.reward_replica import RewardReplica, reward_application
from actors.workers.serve_start import StartError
from conf.rewards import KINDS_WITH_A_SECTION, RewardTerm
from conf.settings import Settings
from pipelines.common.prompts import draw_held_out_prompts, draw_training_prompts
from pipelines.common.readable_relations import relations_from_boxes, relations_in_depth
from pipelines.common.reward_sources import service_token
from pipelines.common.scenes_only import check_rules_reward
from pipelines.policy.call_limit import CallLimits
from pipelines.policy.resources import reward_request, rules_request
from pipelines.policy.reward_mix import RewardMix, RunningReward
from pipelines.policy.rule_reward import RulesReward
from pipelines.reward.served_model import served_model


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
        token = service_token(name, term)
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
